//! Memory of the proxy's connections: idle ones keep little, and closed ones nothing. The limits are coarse and also
//! hold in a debug build; `cargo xtask bench scale` has the figures.
#![expect(clippy::unwrap_used, reason = "a test")]

use egress_tests::Lab;
use egress_tests::idle::{Speaks, measure};

fn keeps(speaks: Speaks, count: usize, each: u64) {
    let mut lab = Lab::start().unwrap();
    let found = measure(&mut lab, speaks, count).unwrap();
    println!("{speaks:?}: {} bytes each, {found:?}", found.of_each());
    assert_eq!(found.connections, count, "all are open at one time");
    assert!(found.of_each() < each, "{found:?}");
    assert!(found.closed < found.before + (20 << 20), "{found:?}");
}

/// Each workload has more connections than it may have running requests (853).
#[test]
fn idle_http_connections_keep_little_memory_and_closed_ones_none() {
    keeps(Speaks::Http, 4000, 16 << 10);
}

#[test]
fn idle_tls_connections_keep_little_memory_and_closed_ones_none() {
    keeps(Speaks::Tls, 1200, 12 << 10);
}
