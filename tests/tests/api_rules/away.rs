//! The API server is away: at the start, for long, and back with changes.

use crate::site::{BYSTANDER, Site, api_only, now, outcomes, seen_after};
use egress_tests::lab::host;
use egress_tests::readiness::spawn;
use egress_tests::rules::ECHO;
use egress_tests::{steady, wait_until};
use serde_json::Value;
use std::time::Duration;

/// Changes must be in force within this after the server is back.
const BACK: Duration = Duration::from_secs(1);
/// A server that is away as long as this is away for good, as far as pauses are concerned: they have reached their end.
const LONG: f64 = 5.0;
/// How long the test waits for what must happen.
const SOON: Duration = Duration::from_secs(20);

/// How long the agent has not had an answer about a kind, in seconds.
fn away(site: &Site) -> Option<f64> {
    let status = site.lab.status().unwrap();
    crate::kind(&status, "serviceentries")["awaySeconds"].as_f64()
}

fn wait_away(site: &Site, seconds: f64) {
    let away = || (away(site)? > seconds).then_some(());
    wait_until("the server is away for long", SOON, away).unwrap();
}

fn trouble(site: &Site) -> Option<String> {
    let status: Value = site.lab.status().unwrap();
    status["trouble"].as_str().map(str::to_owned)
}

#[test]
fn an_agent_without_a_list_and_without_last_good_rules_is_not_ready_and_denies() {
    let mut site = Site::without_agent(api_only());
    site.put(BYSTANDER);
    site.api.stop().unwrap();
    let agent = spawn(&site.lab, &site.lab.agent_place(), &[]).unwrap();
    let says = || {
        let trouble = trouble(&site)?;
        trouble
            .contains("has not listed ServiceEntry")
            .then_some(trouble)
    };
    let said = wait_until("the agent says why it is not ready", SOON, says).unwrap();
    assert!(said.contains("cannot connect to the API server"), "{said}");
    let probe = site.watch_bystander();
    seen_after(&probe, "PermissionDenied", 0);
    wait_away(&site, LONG);
    assert_eq!(outcomes(&probe), ["PermissionDenied"]);
    let back = now();
    site.api.start_again().unwrap();
    let took = seen_after(&probe, "connected", back);
    println!("microseconds from the return of the server to the first connection: {took}");
    assert!(u128::from(took) < BACK.as_micros(), "{took}");
    let ready = || trouble(&site).is_none().then_some(());
    wait_until("the agent is ready", SOON, ready).unwrap();
    probe.end().unwrap();
    drop(agent);
}

#[test]
fn listed_traffic_goes_on_while_the_server_is_away_and_changes_are_in_force_within_a_second() {
    let mut site = Site::without_agent(api_only());
    steady::prepare(&site.lab).unwrap();
    for (_, text) in steady::LISTED {
        site.put(text);
    }
    site.lab.start_agent().unwrap();
    let load = steady::load(&site.lab).unwrap();
    site.api.stop().unwrap();
    wait_away(&site, LONG);
    // An agent that starts meanwhile uses the last good rules.
    site.lab.start_agent().unwrap();
    wait_away(&site, LONG);
    let counts = load.stop().unwrap();
    println!("with the server away: {counts:?}");
    steady::assert_held(&site.lab, &counts);
    // Meanwhile one entry was deleted and one created.
    let (echo, bystander) = (site.watch(host::ECHO, 7), site.watch_bystander());
    seen_after(&echo, "connected", 0);
    seen_after(&bystander, "PermissionDenied", 0);
    site.take(ECHO);
    site.put(BYSTANDER);
    let back = now();
    site.api.start_again().unwrap();
    let took = [
        seen_after(&bystander, "connected", back),
        seen_after(&echo, "PermissionDenied", back),
    ];
    println!("microseconds from the return of the server to the effect of its changes: {took:?}");
    assert!(
        took.iter().all(|took| u128::from(*took) < BACK.as_micros()),
        "{took:?}"
    );
    for (client, seen) in [
        (echo, ["connected", "PermissionDenied"]),
        (bystander, ["PermissionDenied", "connected"]),
    ] {
        assert_eq!(outcomes(&client), seen);
        client.end().unwrap();
    }
}
