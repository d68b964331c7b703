//! Tests of [`super`].

use super::*;
use crate::applied::Applied;
use crate::sources::Refusal;
use egress_core::istio::Kind;
use std::sync::Arc;

fn key(name: &str) -> Key {
    Key {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    }
}

fn rule() -> RuleName {
    "se/shop/a".parse().unwrap()
}

fn report(objects: &[(&str, i64)], refused: Option<&str>) -> Report {
    let digests = objects.iter().map(|(uid, n)| Digest::of(uid, *n));
    let digest = digests.fold(Digest::default(), Digest::with);
    let refused = refused.map(|reason| {
        let lines = vec![reason.into()];
        let refusal = Refusal {
            lines,
            ..Refusal::default()
        };
        (rule(), refusal)
    });
    Report::of(&Applied {
        api: [(Kind::ServiceEntry, digest)].into(),
        refused: Arc::new(refused.into_iter().collect()),
        ..Applied::default()
    })
}

/// Two nodes; the API has `a` in generation 2, and `b`.
fn tally(goal: Goal) -> Tally {
    let mut tally = Tally::new(rule(), goal);
    for node in ["one", "two"] {
        tally.agent(key(node), Some(node.to_owned()));
    }
    tally.put(key("a"), "u".to_owned(), 2);
    tally.put(key("b"), "v".to_owned(), 1);
    tally.settled();
    tally
}

fn says(tally: &Tally, parts: &[&str]) {
    let Verdict::NotYet(text) = tally.verdict() else {
        panic!("{:?}", tally.verdict())
    };
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn all_nodes_have_a_rule_when_each_has_reported_a_state_with_it() {
    let mut tally = tally(Goal::InForce(Some(2)));
    says(
        &tally,
        &[
            "2 of 2",
            "one: its agent has published nothing",
            "publishRules",
        ],
    );
    let now = [("u", 2), ("v", 1)];
    tally.report("one".to_owned(), Some(report(&now, None)));
    tally.report("two".to_owned(), Some(report(&[("u", 1), ("v", 1)], None)));
    says(&tally, &["1 of 2", "two: it has an earlier state"]);
    // Another object changes, and the first node is behind by that only.
    tally.put(key("b"), "v".to_owned(), 2);
    tally.settled();
    tally.report("two".to_owned(), Some(report(&[("u", 2), ("v", 2)], None)));
    assert_eq!(tally.verdict(), Verdict::Done(2));
}

#[test]
fn a_status_that_changes_changes_no_digest() {
    let mut tally = tally(Goal::InForce(None));
    let before = tally.digest;
    tally.put(key("a"), "u".to_owned(), 2);
    assert_eq!(tally.digest, before);
}

#[test]
fn a_node_whose_agent_is_dead_is_named_and_one_without_an_agent_is_not_asked() {
    let mut tally = tally(Goal::InForce(None));
    let now = [("u", 2), ("v", 1)];
    tally.report("one".to_owned(), Some(report(&now, None)));
    tally.report("elsewhere".to_owned(), Some(report(&[], None)));
    tally.agent(key("pending"), None);
    says(
        &tally,
        &["two: its agent", "pod shop/pending: it is on no node"],
    );
    tally.no_agent(&key("two"));
    tally.no_agent(&key("pending"));
    assert_eq!(tally.verdict(), Verdict::Done(1));
    tally.no_agent(&key("one"));
    says(&tally, &["no pod of an agent"]);
}

#[test]
fn a_refused_object_ends_the_wait_with_its_reason() {
    let mut tally = tally(Goal::InForce(None));
    let now = [("u", 2), ("v", 1)];
    tally.report("one".to_owned(), Some(report(&now, None)));
    // The refusal of an earlier version says nothing about this one.
    tally.report(
        "two".to_owned(),
        Some(report(&[("u", 1), ("v", 1)], Some("no port"))),
    );
    says(&tally, &["two: it has an earlier state"]);
    tally.report("two".to_owned(), Some(report(&now, Some("no port"))));
    let refused = "serviceentry/shop/a is refused on 1 of 2 nodes: two: no port".to_owned();
    assert_eq!(tally.verdict(), Verdict::Never(refused));
}

#[test]
fn what_was_deleted_and_what_came_back_count_as_they_are() {
    let mut tally = tally(Goal::Gone);
    says(&tally, &["serviceentry/shop/a exists"]);
    tally.remove(&key("a"));
    tally.settled();
    for node in ["one", "two"] {
        tally.report(node.to_owned(), Some(report(&[("u", 2), ("v", 1)], None)));
    }
    says(&tally, &["may still be in force on 2 of 2"]);
    for node in ["one", "two"] {
        tally.report(node.to_owned(), Some(report(&[("v", 1)], None)));
    }
    assert_eq!(tally.verdict(), Verdict::Done(2));
    tally.put(key("a"), "w".to_owned(), 1);
    tally.settled();
    says(&tally, &["exists"]);
}

#[test]
fn an_object_made_anew_is_another_one() {
    let mut tally = tally(Goal::InForce(None));
    let before = [("u", 2), ("v", 1)];
    for node in ["one", "two"] {
        tally.report(node.to_owned(), Some(report(&before, None)));
    }
    assert_eq!(tally.verdict(), Verdict::Done(2));
    tally.remove(&key("a"));
    tally.settled();
    says(&tally, &["does not exist"]);
    tally.put(key("a"), "w".to_owned(), 1);
    tally.settled();
    says(&tally, &["2 of 2", "an earlier state"]);
}

#[test]
fn a_generation_that_the_object_does_not_have_yet_is_waited_for() {
    let tally = tally(Goal::InForce(Some(3)));
    says(&tally, &["serviceentry/shop/a has generation 2"]);
}

#[test]
fn thousands_of_nodes_make_one_short_line() {
    let mut tally = tally(Goal::InForce(None));
    for n in 0..5000 {
        let node = format!("node-{n}");
        tally.agent(key(&node), Some(node.clone()));
    }
    let Verdict::NotYet(text) = tally.verdict() else {
        panic!("{:?}", tally.verdict())
    };
    assert!(
        text.contains("5002 of 5002") && text.contains("and 4982 more"),
        "{text}"
    );
    assert!(text.len() < 2000);
}
