//! A server that is away: it refuses connections, or hangs.

use crate::following::{Following, PODS, selection};
use crate::{LATER, SOON, following, put};
use egress_tests::api::{FakeApi, Fault, Verb};
use std::time::{Duration, Instant};

#[test]
fn while_the_server_is_away_nothing_changes_and_then_the_changes_are_there_within_a_second() {
    let mut api = FakeApi::start().unwrap();
    let mut following = following(&api);
    api.stop().unwrap();
    following.until("it is noticed", SOON, |f| {
        f.problem().contains("cannot connect")
    });
    api.delete("pods", "shop", "a").unwrap();
    put(&api, "b");
    // Long enough for several attempts.
    following.until("time passes", SOON, |f| {
        f.standing()
            .away
            .is_some_and(|(since, _)| since > Duration::from_secs(3))
    });
    assert_eq!(following.names(), ["a"]);
    let back = Instant::now();
    api.start_again().unwrap();
    following.until("the changes", SOON, |f| f.names() == ["b"]);
    assert!(
        back.elapsed() < Duration::from_secs(1),
        "{:?}",
        back.elapsed()
    );
    assert_eq!(api.requests(Verb::List, "pods"), 1);
    following.until("it stands well", SOON, |f| f.standing().away.is_none());
}

#[test]
fn a_server_that_is_away_at_the_start_is_waited_for() {
    let mut api = FakeApi::start().unwrap();
    put(&api, "a");
    api.stop().unwrap();
    let mut following = Following::start(&api, selection(PODS));
    following.until("it is noticed", SOON, |f| {
        f.problem().contains("cannot connect")
    });
    assert!(!following.standing().synced);
    api.start_again().unwrap();
    following.until("the list", SOON, |f| {
        f.names() == ["a"] && f.standing().synced
    });
}

#[test]
fn a_server_that_hangs_is_noticed_and_slow_answers_are_waited_for() {
    let api = FakeApi::start().unwrap();
    put(&api, "a");
    api.fault(|_| Some(Fault::Hang));
    let mut following = Following::start(&api, selection(PODS));
    following.until("a hang", SOON, |f| f.problem().contains("no answer"));
    api.fault(|_| Some(Fault::Slow(Duration::from_millis(500))));
    following.until("a slow list", LATER, |f| f.synced == 1);
    put(&api, "b");
    following.until("a slow watch", SOON, |f| f.names() == ["a", "b"]);
}
