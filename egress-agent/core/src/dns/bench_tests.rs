//! Rules as YAML to a [`Directory`], for tests.

use super::listing::{Directory, Listing};
use super::query::Question;
use super::settings::QuerySettings;
use crate::istio::{Object, decode};
use crate::policy::leases::Answer;
use crate::policy::state::{Settings, State};
use egress_ebpf::ids::PolicyId;
use hickory_proto::rr::RecordType;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Exact hosts, wildcards, fixed addresses.
pub(super) const RULES: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [api.example.com]
  resolution: DNS
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 8443, name: alt, protocol: TLS}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ["*.wild.example"]
  resolution: NONE
  ports: [{number: 443, name: tls, protocol: TLS}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vip}
spec:
  hosts: [vip.example]
  addresses: [192.0.2.7, 192.0.2.128/25]
  resolution: STATIC
  ports: [{number: 5432, name: db, protocol: TCP}]
  endpoints: [{address: 198.51.100.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: fixed}
spec:
  hosts: [fixed.example]
  resolution: STATIC
  ports: [{number: 5432, name: db, protocol: TCP}]
  endpoints: [{address: 198.51.100.1}, {address: "2001:db8::1"}]
"#;

/// A cluster's settings.
pub(super) fn in_cluster() -> QuerySettings {
    QuerySettings {
        cluster_domain: Some("cluster.local".into()),
        search: vec!["corp.example".into()],
        internal: vec!["10.0.0.0/8".parse().unwrap()],
        ..QuerySettings::default()
    }
}

/// The directory of these rules. `api.example.com` has the address 203.0.113.1.
pub(super) fn directory(rules: &str, settings: Settings, queries: QuerySettings) -> Directory {
    let decoded = decode("rules.yaml", rules);
    assert!(!decoded.is_broken());
    let objects: Vec<Arc<Object>> = decoded.objects.into_iter().map(Arc::new).collect();
    let mut state = State::new(settings);
    let now = Instant::now();
    state.handle_rules(now, &objects);
    let answer = Answer {
        addresses: vec!["203.0.113.1".parse().unwrap()],
        ttl: Duration::from_mins(1),
    };
    state.handle_answer(now, "api.example.com", Ok(answer));
    drop(state.poll_ops());
    Directory {
        routes: state.routes(),
        names: state.names(),
        settings: Arc::new(queries),
        version: 0,
    }
}

/// What workloads of the default policy may ask.
pub(super) fn listing(directory: &Directory) -> Listing<'_> {
    directory.listing(PolicyId(0))
}

pub(super) fn question(name: &str, kind: RecordType) -> Question {
    Question {
        name: name.into(),
        kind,
    }
}
