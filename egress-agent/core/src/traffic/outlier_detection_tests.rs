//! Which endpoints are ejected, for how long, and how many.

use super::outlier_detection::{Outcome, OutlierDetection, Outliers};
use crate::istio::destination_rule::OutlierDetection as Rule;
use std::net::SocketAddr;
use std::time::Duration;

fn policy() -> OutlierDetection {
    OutlierDetection {
        most_ejected: 100,
        ..OutlierDetection::from(&Rule::default())
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 80))
}

fn three() -> [SocketAddr; 3] {
    [1, 2, 3].map(address)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The endpoints of three that are used.
fn used(outliers: &mut Outliers, now: u64, policy: &OutlierDetection) -> Vec<u8> {
    let mut all = three().to_vec();
    outliers.filter(&mut all, seconds(now), policy);
    let last = |a: &SocketAddr| match a {
        SocketAddr::V4(a) => a.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    };
    all.iter().map(last).collect()
}

fn fail(outliers: &mut Outliers, last: u8, status: u16, times: usize, policy: &OutlierDetection) {
    for _ in 0..times {
        let outcome = Outcome::Status(status);
        outliers.note(address(last), outcome, &three(), seconds(1), policy);
    }
}

#[test]
fn an_endpoint_with_errors_in_a_row_is_left_alone_for_its_time() {
    let policy = policy();
    let mut outliers = Outliers::default();
    fail(&mut outliers, 1, 500, 4, &policy);
    fail(&mut outliers, 1, 200, 1, &policy);
    fail(&mut outliers, 1, 500, 4, &policy);
    assert_eq!(used(&mut outliers, 1, &policy), [1, 2, 3]);
    fail(&mut outliers, 1, 503, 1, &policy);
    assert_eq!(used(&mut outliers, 1, &policy), [2, 3]);
    // Ejected at 1 for 30 s; the checks are every 10 s.
    assert_eq!(used(&mut outliers, 39, &policy), [2, 3]);
    assert_eq!(used(&mut outliers, 40, &policy), [1, 2, 3]);
    // The next time is twice as long.
    for _ in 0..5 {
        outliers.note(address(1), Outcome::Lost, &three(), seconds(41), &policy);
    }
    assert_eq!(used(&mut outliers, 100, &policy), [2, 3]);
    assert_eq!(used(&mut outliers, 110, &policy), [1, 2, 3]);
    // A healthy endpoint's multiple sinks with each check.
    for _ in 0..5 {
        outliers.note(
            address(1),
            Outcome::TimedOut,
            &three(),
            seconds(200),
            &policy,
        );
    }
    assert_eq!(used(&mut outliers, 229, &policy), [2, 3]);
    assert_eq!(used(&mut outliers, 230, &policy), [1, 2, 3]);
}

#[test]
fn each_kind_of_error_has_its_limit() {
    let gateway = OutlierDetection {
        server_errors: None,
        gateway_errors: Some(2),
        ..policy()
    };
    let mut outliers = Outliers::default();
    fail(&mut outliers, 1, 500, 9, &gateway);
    fail(&mut outliers, 1, 502, 1, &gateway);
    fail(&mut outliers, 1, 500, 1, &gateway);
    fail(&mut outliers, 1, 502, 1, &gateway);
    assert_eq!(used(&mut outliers, 1, &gateway), [1, 2, 3]);
    fail(&mut outliers, 1, 504, 1, &gateway);
    assert_eq!(used(&mut outliers, 1, &gateway), [2, 3]);
    let split = OutlierDetection {
        split: true,
        local_failures: Some(2),
        ..policy()
    };
    let mut outliers = Outliers::default();
    outliers.note(address(2), Outcome::Lost, &three(), seconds(1), &split);
    outliers.note(address(2), Outcome::Connected, &three(), seconds(1), &split);
    outliers.note(address(2), Outcome::Lost, &three(), seconds(1), &split);
    assert_eq!(used(&mut outliers, 1, &split), [1, 2, 3]);
    outliers.note(address(2), Outcome::TimedOut, &three(), seconds(1), &split);
    assert_eq!(used(&mut outliers, 1, &split), [1, 3]);
}

#[test]
fn a_connection_without_a_split_counts_as_200() {
    let policy = OutlierDetection {
        gateway_errors: Some(2),
        server_errors: Some(2),
        ..policy()
    };
    let mut outliers = Outliers::default();
    for outcome in [Outcome::Lost, Outcome::Connected, Outcome::TimedOut] {
        outliers.note(address(1), outcome, &three(), seconds(1), &policy);
    }
    assert_eq!(used(&mut outliers, 1, &policy), [1, 2, 3]);
    outliers.note(address(1), Outcome::Lost, &three(), seconds(1), &policy);
    assert_eq!(used(&mut outliers, 1, &policy), [2, 3]);
}

#[test]
fn an_endpoint_is_ejected_if_the_share_holds_with_it() {
    for (most, left) in [
        (10, &[1, 2, 3][..]),
        (33, &[1, 2, 3]),
        (34, &[2, 3]),
        (50, &[2, 3]),
        (67, &[3]),
        (99, &[3]),
        (100, &[]),
    ] {
        let policy = OutlierDetection {
            most_ejected: most,
            ..policy()
        };
        let mut outliers = Outliers::default();
        for last in 1..=3 {
            fail(&mut outliers, last, 500, 5, &policy);
        }
        assert_eq!(used(&mut outliers, 1, &policy), left, "{most} %");
    }
}

#[test]
fn an_endpoint_that_is_gone_takes_no_part_of_the_share() {
    let half = OutlierDetection {
        most_ejected: 50,
        ..policy()
    };
    let mut outliers = Outliers::default();
    let mut fails = |present: &[u8], last: u8| {
        let present: Vec<_> = present.iter().copied().map(address).collect();
        for _ in 0..5 {
            let outcome = Outcome::Status(500);
            outliers.note(address(last), outcome, &present, seconds(1), &half);
        }
    };
    fails(&[8, 2], 8);
    fails(&[1, 2], 1);
    assert_eq!(used(&mut outliers, 1, &half), [2, 3]);
}

#[test]
fn only_a_share_is_ejected_and_all_are_used_if_too_few_are_left() {
    let all = policy();
    let mut outliers = Outliers::default();
    for last in 1..=3 {
        fail(&mut outliers, last, 500, 5, &all);
    }
    assert_eq!(used(&mut outliers, 1, &all), [0; 0]);
    let panic = OutlierDetection {
        least_healthy: 50,
        ..policy()
    };
    let mut outliers = Outliers::default();
    fail(&mut outliers, 1, 500, 5, &panic);
    assert_eq!(used(&mut outliers, 1, &panic), [2, 3]);
    fail(&mut outliers, 2, 500, 5, &panic);
    assert_eq!(used(&mut outliers, 1, &panic), [1, 2, 3]);
}
