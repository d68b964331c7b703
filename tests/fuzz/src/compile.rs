//! Any bytes as a rules file, compiled to tables and routes: no panic, memory bounded by the input,
//! and taking the rules away leaves nothing. Start from `tests/data/istio`.

use egress_core::istio::{Object, decode};
use egress_core::policy::state::{Settings, State};
use egress_core::registry::lint::lint;
use egress_core::registry::not_done::not_done;
use std::sync::Arc;
use std::time::Instant;

/// Panics where something is wrong.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // What validation refuses is never compiled, but compiling must not rely on that.
    let objects: Vec<Arc<Object>> = decode("fuzz.yaml", text)
        .objects
        .into_iter()
        .map(Arc::new)
        .collect();
    lint(&objects);
    for object in &objects {
        not_done(object);
    }
    let now = Instant::now();
    let mut state = State::new(Settings::default());
    state.handle_rules(now, &objects);
    let routes = state.routes();
    // At most one entry for each pair of a port and an address, each of which is written out.
    assert!(state.poll_ops().len() <= 1024 + data.len() * data.len() / 64);
    for port in routes.policies.values().flat_map(|p| p.ports.values()) {
        assert!(port.hosts.len() + port.tls.len() + port.tcp.len() <= data.len());
    }
    state.handle_rules(now, &[]);
    assert!(state.routes().policies.values().all(|p| p.ports.is_empty()));
    assert!(state.unresolved().is_empty());
}
