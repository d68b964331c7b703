//! What a server refuses, and a connection that is not the server's.

use crate::following::{self, Following, PODS, selection};
use crate::{LATER, SOON, put};
use egress_agent::kubernetes::{Standings, follow};
use egress_tests::api::{FakeApi, Fault, Verb};
use egress_tests::wait_until;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn what_the_server_refuses_is_said_with_what_to_do() {
    let api = FakeApi::start().unwrap();
    let mut following = crate::following(&api);
    for (fault, part) in [
        (Fault::Status(403, "Forbidden"), "the agent's role"),
        (Fault::Status(401, "Unauthorized"), "credentials"),
        (Fault::Status(500, "InternalError"), "answered 500"),
        (Fault::Status(429, "TooManyRequests"), "overloaded (429)"),
    ] {
        api.fault(move |_| Some(fault.clone()));
        api.cut();
        following.until(part, LATER, |f| f.problem().contains(part));
        assert_eq!(following.names(), ["a"]);
        api.no_fault();
        following.until("it goes on", LATER, |f| f.standing().away.is_none());
    }
}

#[test]
fn the_server_says_how_long_to_wait() {
    let api = FakeApi::start().unwrap();
    put(&api, "a");
    api.fault(|_| Some(Fault::RetryAfter(4)));
    let mut following = Following::start(&api, selection(PODS));
    following.until("it is noticed", SOON, |f| {
        f.problem().contains("overloaded")
    });
    api.no_fault();
    let began = Instant::now();
    following.until("the list", LATER, |f| f.synced == 1);
    assert!(
        began.elapsed() > Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn over_tls_all_kinds_of_a_node_share_one_connection() {
    let api = FakeApi::start_tls().unwrap();
    put(&api, "a");
    api.put("namespaces", json!({"metadata": {"name": "shop"}}))
        .unwrap();
    let runtime = following::runtime();
    let client = following::client(&runtime, api.kubeconfig().unwrap());
    let standings = Standings::default();
    let namespaces = egress_agent::kubernetes::Kind {
        plural: "namespaces",
        ..PODS
    };
    let mut kept = Vec::new();
    for kind in [PODS, namespaces] {
        let (sender, news) = tokio::sync::mpsc::channel::<_>(16);
        let standing = standings.add(kind.plural);
        runtime.spawn(follow::<following::Thing>(
            client.clone(),
            selection(kind),
            standing,
            sender,
        ));
        kept.push(news);
    }
    wait_until("both watch", SOON, || {
        (api.watches("pods") == 1 && api.watches("namespaces") == 1).then_some(())
    })
    .unwrap();
    assert_eq!(api.connections(), 1);
    drop(kept);
    wait_until("nobody listens, nothing is asked", SOON, || {
        (api.watches("pods") + api.watches("namespaces") == 0).then_some(())
    })
    .unwrap();
}

#[test]
fn a_server_that_another_authority_vouches_for_is_not_trusted() {
    let api = FakeApi::start_tls().unwrap();
    let other = FakeApi::start_tls().unwrap();
    let theirs = std::fs::read_to_string(other.kubeconfig().unwrap()).unwrap();
    let theirs: Value = serde_json::from_str(&theirs).unwrap();
    let authority = theirs["clusters"][0]["cluster"]["certificate-authority"]
        .as_str()
        .unwrap();
    let wrong = api
        .write_kubeconfig("wrong", Some(authority.as_ref()), "token-of-a-test")
        .unwrap();
    let mut following = Following::by(wrong, selection(PODS));
    following.until("it is noticed", SOON, |f| {
        f.problem().contains("certificate")
    });
    assert_eq!(api.requests(Verb::List, "pods"), 0, "no token was sent");
}
