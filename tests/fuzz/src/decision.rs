//! Rules, and what must hold for every request that they decide.
//!
//! The plain reader of hosts and paths here shares no code with the product's.

use egress_core::istio::{Object, decode};
use egress_core::policy::state::{Settings, State};
use egress_core::routing::{HttpDecision, RequestHead, RouteTable};
use egress_core::traffic::HttpAction;
use egress_ebpf::ids::PolicyId;
use http::Request;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// `/admin` and `/secret` of `a.example` are for nobody.
const RULES: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example]
  addresses: [192.0.2.1]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ["*.wild.example"]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a.example]
  http:
  - match: [{uri: {prefix: /admin}}, {uri: {regex: "/secret(/.*)?"}}]
    directResponse: {status: 403}
  - match: [{headers: {x-deny: {exact: "yes"}}}]
    directResponse: {status: 403}
  - route: [{destination: {host: a.example}}]
"#;

static ROUTES: LazyLock<Arc<RouteTable>> = LazyLock::new(|| {
    let decoded = decode("rules.yaml", RULES);
    assert!(!decoded.is_broken());
    let objects: Vec<Arc<Object>> = decoded.objects.into_iter().map(Arc::new).collect();
    let mut state = State::new(Settings::default());
    state.handle_rules(Instant::now(), &objects);
    let _ = state.poll_ops();
    let routes = state.routes();
    assert!(routes.port(PolicyId(0), 80).is_some());
    routes
});

/// Decides one request as the proxy does. Panics if it goes where no rule lets it go.
pub fn check<B>(request: &Request<B>, authority: &str) {
    let head = RequestHead::of(request, authority);
    let dialled = "192.0.2.1:80".parse().expect("an address");
    let decide = || ROUTES.http(PolicyId(0), dialled, &head, 0);
    let decision = decide();
    let is_listed = !matches!(decision, HttpDecision::UnlistedHost);
    let host = plain_host(authority);
    assert!(
        !is_listed || is_a(&host) || is_wild(&host),
        "{authority:?} is listed"
    );
    assert!(is_listed || !["a.example", "a.example:80", "x.wild.example"].contains(&authority));
    let HttpDecision::Act(act) = decision else {
        return;
    };
    let path = plain_path(head.path);
    let denied = head.headers.get_all("x-deny").iter().any(|v| v == "yes");
    let is_private = is_a(&host)
        && (denied
            || path.starts_with("/admin")
            || path == "/secret"
            || path.starts_with("/secret/"));
    let is_forwarded = matches!(act.action, HttpAction::Forward(_));
    assert_eq!(is_forwarded, !is_private, "{:?}", head.path);
}

/// A service has the name of its address too.
fn is_a(host: &str) -> bool {
    ["a.example", "192.0.2.1"].contains(&host)
}

fn is_wild(host: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    host.ends_with(".wild.example") && host.bytes().all(is_of_name)
}

/// A host without its port and the dot of its root, in lower case.
fn plain_host(authority: &str) -> String {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    host.to_ascii_lowercase()
}

/// A path without its query, as a server may read it.
fn plain_path(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or_default()
}
