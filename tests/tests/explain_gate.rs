//! `explain` of the running agent against the gate itself: random rules are put in force, and each
//! explained destination is then dialled from behind the gate.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[allow(dead_code, reason = "its random rules are all that is made here")]
#[path = "../../egress-agent/core/tests/gate/documents.rs"]
mod documents;
#[path = "../../egress-agent/core/tests/gate/random.rs"]
mod random;

use egress_agent::operate::client;
use egress_agent::operate::request::{self, Explained};
use egress_core::istio::{Severity, decode, validate};
use egress_tests::flows::{self, End, Flow};
use egress_tests::{Lab, LabOptions};
use random::{ANSWERS, Asked, OTHER_PORTS, PORTS, Random, WORLD, asked, rules};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Rule sets and destinations of each agent: 10 000 pairs in all.
const SETS: [usize; 3] = [50, 30, 20];
const DESTINATIONS: usize = 100;

/// An entry that is always there, because the agent rejects a file without an object.
const ALWAYS: &str = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: always}
spec: {hosts: [always.test], resolution: STATIC, ports: [{number: 9, name: p, protocol: TCP}], endpoints: [{address: 192.0.2.9}]}
";

fn lab(flags: &[&str]) -> Lab {
    let lab = Lab::start_with(LabOptions::flags(flags)).unwrap();
    // If no rule names an address, explain judges an address of a documentation range.
    let route = "route add 192.0.2.0/24 via 203.0.113.254";
    lab.node().ip(route).unwrap();
    let local = "route add local 192.0.2.0/24 dev lo";
    lab.outside().ip(local).unwrap();
    let addresses = WORLD.map(|ip| ip.parse().unwrap());
    let ports = [&PORTS[..], &OTHER_PORTS].concat();
    lab.world().anyone(&addresses, &ports).unwrap();
    for (name, addresses) in ANSWERS {
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        lab.dns.set(name, &addresses, 300);
    }
    lab
}

/// The documents that are valid.
fn valid(documents: Vec<String>) -> String {
    let valid = |text: &String| {
        let decoded = decode("random.yaml", text);
        let messages = decoded.objects.iter().flat_map(validate);
        messages
            .chain(decoded.messages.clone())
            .all(|m| m.severity != Severity::Error)
    };
    documents.into_iter().filter(valid).collect()
}

fn explain(lab: &Lab, asked: &Asked) -> Explained {
    let request = request::Asked {
        destination: asked.text(),
        ..request::Asked::default()
    };
    client::explain(&lab.admin_socket(), request).unwrap()
}

/// A flow that explain judged, as a client makes it.
fn flow(judged: &request::JudgedFlow, asked: &Asked) -> Flow {
    match (judged.transport.as_str(), judged.speaks.as_str()) {
        ("udp", _) => Flow::datagram(judged.to),
        (_, "http") => Flow::http(judged.to, &asked.authority(), asked.path),
        (_, "http2") => Flow::http2(judged.to, &asked.authority(), asked.path),
        (_, "tls") => Flow::tls(judged.to, &asked.host.to_ascii_lowercase()).unwrap(),
        _ => Flow::bytes(judged.to, vec![0, 0, 0, 8, 4, 210, 22, 47]),
    }
}

/// All flows that a client could make to an address.
fn everything(to: SocketAddr, asked: &Asked) -> Vec<Flow> {
    let mut hosts = vec![asked.host.clone()];
    hosts.extend(ANSWERS.iter().map(|(name, _)| (*name).to_owned()));
    hosts.extend(["any.example", "any.sub.example"].map(str::to_owned));
    let mut all = vec![Flow::datagram(to), Flow::bytes(to, vec![0, 0, 0, 8])];
    for host in &hosts {
        let bracketed = host
            .parse::<std::net::Ipv6Addr>()
            .map(|ip| format!("[{ip}]"));
        all.push(Flow::http(to, bracketed.as_ref().unwrap_or(host), "/"));
        all.push(Flow::tls(to, host).unwrap());
    }
    all
}

/// A destination, its explanation, and the flows that test it.
struct Pair {
    asked: Asked,
    explained: Explained,
    flows: Vec<Flow>,
}

impl Pair {
    fn of(lab: &Lab, asked: Asked) -> Self {
        let explained = explain(lab, &asked);
        let flows = match (asked.address(), asked.scheme) {
            (Some(ip), None) => everything(SocketAddr::new(ip, asked.port), &asked),
            _ => explained
                .flows
                .iter()
                .map(|judged| flow(judged, &asked))
                .collect(),
        };
        Self {
            asked,
            explained,
            flows,
        }
    }

    /// Whether the explanation agrees with the results.
    fn holds(&self, ends: &[End]) -> bool {
        if self.asked.address().is_some() && self.asked.scheme.is_none() {
            // Another path may have a route.
            let passes = |end: &End| matches!(end, End::Served | End::Status(301 | 404));
            return self.explained.allowed == ends.iter().any(passes);
        }
        let denied = ends.iter().find(|end| **end != End::Served);
        match (self.explained.denied_by.as_deref(), denied) {
            (None, None) => self.explained.allowed && !ends.is_empty(),
            // The route's own answer.
            (None, Some(End::Status(status))) => {
                let told = format!("is answered with a redirect ({status})");
                self.explained.allowed && self.explained.lines[0].contains(&told)
            }
            (Some("kernel"), Some(End::Denied)) | (Some("proxy"), Some(End::Closed)) => true,
            (Some(said), Some(End::Status(status))) => said == status.to_string(),
            _ => false,
        }
    }
}

/// Compares with this many rule sets. Returns the number of each result, by explanation.
fn compare(lab: &Lab, seed: u64, sets: usize) -> BTreeMap<String, usize> {
    let mut said = BTreeMap::new();
    for set in 0..sets {
        let mut random = Random::new(seed * 1_000_003 + set as u64);
        let text = valid(rules(&mut random)) + ALWAYS;
        lab.rules("random.yaml", &text).unwrap();
        let pairs: Vec<Pair> = (0..DESTINATIONS)
            .map(|_| Pair::of(lab, asked(&mut random)))
            .collect();
        let all: Vec<Flow> = pairs.iter().flat_map(|pair| pair.flows.clone()).collect();
        let ends = flows::run(&lab.client_place(), &all).unwrap();
        let mut rest = ends.as_slice();
        for pair in &pairs {
            let (own, others) = rest.split_at(pair.flows.len());
            rest = others;
            assert!(
                pair.holds(own),
                "EGRESS_SEED={seed}, rule set {set}: {}\nexplain: {:#?}\nreally: {own:?}\n{text}",
                pair.asked.text(),
                pair.explained
            );
            let word = pair.explained.denied_by.as_deref().unwrap_or("allowed");
            *said.entry(word.to_owned()).or_default() += 1;
        }
    }
    said
}

#[test]
fn ten_thousand_destinations_are_explained_as_the_kernel_and_the_proxy_judge_them() {
    let seed = std::env::var("EGRESS_SEED").map_or(1, |text| text.parse().unwrap());
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    for (n, (flags, sets)) in [
        &[][..],
        &[
            "--unlisted-address",
            "byName",
            "--internal",
            "198.51.100.168/30",
        ],
        &["--outbound-traffic-policy", "ALLOW_ANY"],
    ]
    .into_iter()
    .zip(SETS)
    .enumerate()
    {
        let lab = lab(flags);
        for (word, count) in compare(&lab, seed * 10 + n as u64, sets) {
            *all.entry(word).or_default() += count;
        }
    }
    let pairs: usize = all.values().sum();
    println!("seed {seed}, {pairs} pairs without a difference: {all:?}");
    assert_eq!(pairs, 10_000);
    // Every verdict must be frequent. Otherwise the comparison means little.
    assert!(all.len() >= 6, "{all:?}");
}
