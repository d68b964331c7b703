//! Many namespaces with a workload each, which see the same services and one of their own.

use egress_core::istio::{Object, decode};
use egress_core::policy::state::{Settings, State};
use egress_core::registry::scope::Workload;
use egress_ebpf::ids::CgroupId;
use std::sync::Arc;
use std::time::Instant;

/// Namespaces with a workload each.
pub const VIEWS: usize = 40;
/// Services that all namespaces see.
pub const SERVICES: usize = 30;

/// One object.
pub fn object(kind: &str, namespace: &str, name: &str, spec: &str) -> Arc<Object> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: \
         {namespace}}}\nspec: {{{spec}}}\n"
    );
    Arc::new(decode("test.yaml", &text).objects.pop().unwrap())
}

/// A service with one address.
pub fn service(namespace: &str, name: &str, host: usize, export_to: &str) -> Arc<Object> {
    let spec = format!(
        "hosts: [h{host}.example], exportTo: [{export_to}], resolution: STATIC, ports: [{{number: 80, \
         name: h, protocol: HTTP}}], endpoints: [{{address: 203.0.113.{host}}}]"
    );
    object("ServiceEntry", namespace, name, &spec)
}

/// A state in which each namespace sees something of its own.
pub fn many() -> (State, Vec<Arc<Object>>) {
    let shared = (0..SERVICES).map(|n| service("common", &format!("s{n}"), n, "'*'"));
    let own = (0..VIEWS).map(|n| service(&format!("n{n}"), "own", 100 + n, "'.'"));
    let rules: Vec<_> = shared.chain(own).collect();
    let (mut state, now) = (State::new(Settings::default()), Instant::now());
    for n in 0..VIEWS {
        let workload = Workload {
            namespace: format!("n{n}"),
            ..Workload::default()
        };
        state.handle_workload(now, CgroupId(n as u64 + 1), workload);
    }
    state.handle_rules(now, &rules);
    drop(state.poll_ops());
    (state, rules)
}
