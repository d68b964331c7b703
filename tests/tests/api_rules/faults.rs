//! A server with faults: no verdict changes, and the agent does not spin.

use crate::site::{BYSTANDER, Site, api_only, now, outcomes, seen_after};
use egress_tests::api::{Fault, KINDS, Verb};
use egress_tests::lab::host;
use egress_tests::rules::ECHO;
use egress_tests::wait_until;
use std::time::{Duration, Instant};

/// How long the test waits for what must happen: the longest pause of the agent, and some.
const SOON: Duration = Duration::from_mins(1);

const PLURAL: &str = "serviceentries";

fn requests(site: &Site) -> usize {
    let of = |verb| site.api.requests(verb, PLURAL);
    of(Verb::List) + of(Verb::Watch)
}

/// Waits for so many further requests.
fn wait_requests(site: &Site, more: usize) {
    let before = requests(site);
    let came = || (requests(site) >= before + more).then_some(());
    wait_until("the agent asks again", SOON, came).unwrap();
}

/// Waits until the agent's watch has lasted, after which its pauses are short again, and has delivered a change.
fn wait_watching(site: &Site, changed: &str) {
    let current = || {
        let status = site.lab.status().ok()?;
        let current = crate::kind(&status, PLURAL)["awaySeconds"].is_null();
        (current && site.api.watches(PLURAL) == 1).then_some(())
    };
    wait_until("the agent watches", SOON, current).unwrap();
    let probe = site.watch_bystander();
    seen_after(&probe, "PermissionDenied", 0);
    let before = now();
    site.put(changed);
    seen_after(&probe, "connected", before);
    let before = now();
    site.take(changed);
    seen_after(&probe, "PermissionDenied", before);
    probe.end().unwrap();
}

#[test]
fn no_fault_of_the_server_changes_a_verdict() {
    let mut site = Site::without_agent(api_only());
    site.put(ECHO);
    site.lab.start_agent().unwrap();
    let (listed, unlisted) = (site.watch(host::ECHO, 7), site.watch(host::BYSTANDER, 80));
    seen_after(&listed, "connected", 0);
    seen_after(&unlisted, "PermissionDenied", 0);
    let begin = Instant::now();
    // The history is gone.
    site.api.compact();
    site.api.cut();
    wait_watching(&site, BYSTANDER);
    // Bytes that are no event, and an event that is cut off.
    for bytes in [
        "garbage\n",
        "{\"type\": \"DELETED\", \"object\": {}}\n",
        "{\"type\": \"DELETED\", \"obj",
    ] {
        site.api.inject(PLURAL, bytes);
        site.api.cut();
        wait_watching(&site, BYSTANDER);
    }
    // Answers that are no lists, in turn.
    for fault in [
        Fault::Status(500, "InternalError"),
        Fault::Status(403, "Forbidden"),
        Fault::Status(404, "NotFound"),
        Fault::Body("{}".to_owned()),
        Fault::Body("{\"kind\": \"ServiceEntryList\", \"metadata\": {}, \"items\": []}".to_owned()),
        Fault::Body("<html>".to_owned()),
        Fault::Cut,
    ] {
        let shown = format!("{fault:?}");
        site.api.fault(move |_| Some(fault.clone()));
        site.api.compact();
        site.api.cut();
        wait_requests(&site, 2);
        site.api.no_fault();
        assert_eq!(outcomes(&listed), ["connected"], "{shown}");
        wait_watching(&site, BYSTANDER);
    }
    let seconds = begin.elapsed().as_secs() as usize;
    let all: Vec<usize> = KINDS
        .map(|(_, plural)| site.api.requests(Verb::List, plural))
        .to_vec();
    println!(
        "{seconds} s of faults; lists by kind: {all:?}, of {PLURAL} with watches: {}",
        requests(&site)
    );
    assert!(requests(&site) < 20 + 4 * seconds, "the agent spins");
    for (client, seen) in [(listed, "connected"), (unlisted, "PermissionDenied")] {
        assert_eq!(outcomes(&client), [seen]);
        client.end().unwrap();
    }
}

#[test]
fn kinds_that_are_not_installed_yet_are_asked_for_with_pauses_and_found_later() {
    let site = Site::without_kinds(api_only());
    let agent = egress_tests::readiness::spawn(&site.lab, &site.lab.agent_place(), &[]).unwrap();
    let begin = Instant::now();
    wait_requests(&site, 9);
    let (count, time) = (requests(&site), begin.elapsed());
    println!("{count} requests of one kind in {time:.1?}");
    // Three versions each time, at least 0.4 s apart.
    let most = 3 * (2 + time.as_millis() / 400);
    assert!(count as u128 <= most, "{count} requests in {time:?}");
    let trouble = site.lab.status().unwrap()["trouble"].to_string();
    assert!(trouble.contains("does not serve this kind"), "{trouble}");
    let probe = site.watch_bystander();
    seen_after(&probe, "PermissionDenied", 0);
    site.install();
    let before = now();
    site.put(BYSTANDER);
    seen_after(&probe, "connected", before);
    // The definitions are deleted, and the objects with them.
    let before = now();
    for (_, plural) in KINDS {
        site.api.uninstall(plural);
    }
    seen_after(&probe, "PermissionDenied", before);
    probe.end().unwrap();
    drop(agent);
}
