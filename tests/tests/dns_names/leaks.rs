//! No byte of a query that no rule lists leaves the node.

use crate::setting::{WILD, ask_all, lab, lines, python};
use egress_tests::Lab;
use egress_tests::cgroup::Cgroup;
use egress_tests::escape::capture::{Capture, Frame};
use egress_tests::place::Place;
use egress_tests::queries::REFUSED;
use egress_tests::rules::{ECHO, HTTPBIN};
use std::collections::BTreeSet;

const SERVERS: [&str; 7] = [
    "198.51.100.53",
    "2001:db8:2::53",
    "::ffff:198.51.100.53",
    "198.51.100.99",
    "127.0.0.53",
    "::1",
    "192.0.2.1",
];
const ROUTER: &str = "203.0.113.254";
/// Queries of the workload.
const COUNT: &str = "10000";

fn settle(lab: &Lab, capture: &mut Capture) -> Vec<Frame> {
    capture.settle(lab.node(), ROUTER.parse().unwrap()).unwrap()
}

/// Sends queries with a marker from `place`. Returns the frames that carry it.
fn leaked(
    lab: &Lab,
    capture: &mut Capture,
    place: &Place<'_>,
    count: &str,
    marker: &str,
    servers: &[&str],
) -> Vec<Frame> {
    let arguments = [&[count, marker], servers].concat();
    let ended = python(place, "leak.py", &arguments);
    println!("{marker}: {}", lines(&ended)[0]);
    let mut frames = settle(lab, capture);
    frames.retain(|frame| frame.contains_text(marker));
    frames
}

#[test]
fn ten_thousand_unlisted_queries_leave_no_trace_on_the_cable() {
    let lab = lab(&[]);
    for (name, rules) in [
        ("httpbin.yaml", HTTPBIN),
        ("echo.yaml", ECHO),
        ("wild.yaml", WILD),
    ] {
        lab.rules(name, rules).unwrap();
    }
    let mut capture = Capture::start(lab.outside()).unwrap();
    // Without the gate the cable shows the marker of nearly every query.
    let free = Cgroup::new().unwrap();
    let outside = Place {
        cgroup: Some(&free),
        ..lab.client_place()
    };
    let seen = leaked(
        &lab,
        &mut capture,
        &outside,
        "300",
        "xq7open",
        &SERVERS[..2],
    );
    let marks = |frames: &[Frame]| {
        let texts = frames.iter().map(|frame| frame.text().to_ascii_lowercase());
        let found = texts.flat_map(|text| {
            let starts: Vec<usize> = text.match_indices("xq7").map(|(at, _)| at).collect();
            starts
                .into_iter()
                .map(move |at| text[at..text.len().min(at + 12)].to_owned())
        });
        found.collect::<BTreeSet<String>>()
    };
    assert!(marks(&seen).len() > 250, "{}", marks(&seen).len());
    let place = lab.client_place();
    let leaked = leaked(&lab, &mut capture, &place, COUNT, "xq7shut", &SERVERS);
    assert!(
        leaked.is_empty(),
        "{} of them, as {}",
        leaked.len(),
        leaked[0].text()
    );
}

#[test]
fn names_below_a_wildcard_are_bounded_in_number() {
    let lab = lab(&["--dns-below-burst=20", "--dns-below-per-minute=1"]);
    lab.rules("wild.yaml", WILD).unwrap();
    let place = lab.client_place();
    let names: Vec<String> = (0..200).map(|n| format!("xq7n{n}.wild.example")).collect();
    let answers = ask_all(&place, "connected", &names, "192.0.2.1");
    let denied = answers
        .iter()
        .filter(|answer| answer["code"] == REFUSED)
        .count();
    assert!((176..=180).contains(&denied), "{denied}");
    let asked: BTreeSet<String> = lab
        .dns
        .queries()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let arrived = names.iter().filter(|name| asked.contains(*name)).count();
    // A minute more has one more.
    assert!((20..=24).contains(&arrived), "{arrived}");
}
