//! The short form of the soak: requests of all kinds over HTTP/1.1 and HTTP/2 while the rules change five times a
//! second. `cargo xtask bench soak` runs the whole.

use egress_tests::soak::{Options, run};
use std::time::Duration;

#[test]
fn no_request_takes_a_route_that_no_version_of_the_rules_has() {
    let outcome = run(&Options {
        binary: None,
        requests: 20_000,
        change: Duration::from_millis(200),
        rotation: Duration::from_secs(2),
        limit: Duration::from_mins(5),
    })
    .unwrap();
    let clients = &outcome.clients;
    assert_eq!(outcome.wrong(), 0, "{clients:#}");
    assert_eq!(clients["requests"], 20_000);
    assert!(outcome.versions >= 5, "{outcome:?}");
    for kind in [
        "Path",
        "Header",
        "Flip",
        "Rewritten",
        "Retried",
        "Aborted",
        "Delayed",
        "Mirrored",
        "Changed",
        "Redirected",
        "Direct",
        "Posted",
        "Sometimes",
    ] {
        assert!(
            clients["kinds"][kind].as_u64() > Some(100),
            "{kind}: {clients:#}"
        );
    }
    let [first, second, mirror] = outcome.served;
    assert!(first > 0 && second > 0 && mirror > 0, "{outcome:?}");
    assert_eq!(outcome.unlogged(), 0, "{outcome:?}");
    let [before, after] = outcome.descriptors;
    assert!(after <= before, "descriptors: {before}, then {after}");
}
