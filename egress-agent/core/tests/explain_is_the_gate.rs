//! `explain` against the gate, on random rules and destinations near them: its verdict must be that of `decide()` over
//! the written tables, the proxy's reading and its routes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod gate;

use egress_core::http::head_reader::{HeadOutcome, HeadReader};
use egress_core::istio::{Object, Severity, decode, validate};
use egress_core::policy::claims::UnlistedAddress;
use egress_core::policy::explain::{DeniedBy, Explanation, Flow, Question, Speaks};
use egress_core::policy::leases::Answer;
use egress_core::policy::state::{Settings, State};
use egress_core::policy::tables::Transport;
use egress_core::routing::{
    Cluster, HttpDecision, RequestHead, RouteTable, Step, TlsDecision, candidates, sniff,
};
use egress_ebpf::ids::PolicyId;
use egress_ebpf::verdict::Verdict;
use gate::Gate;
use gate::random::{ANSWERS, Asked, Random, asked, rules};
use http::HeaderMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const RULE_SETS: u64 = 250;
const DESTINATIONS: usize = 60;

/// How a flow ends: `None` if it reached a destination, else who denied it.
type End = Option<DeniedBy>;

/// The objects of documents that are valid.
fn valid(documents: &[String]) -> Vec<Arc<Object>> {
    let mut all = Vec::new();
    for text in documents {
        let decoded = decode("random.yaml", text);
        assert!(!decoded.is_broken(), "{:?}\n{text}", decoded.messages);
        let bad = |o: &Object| validate(o).iter().any(|m| m.severity == Severity::Error);
        all.extend(
            decoded
                .objects
                .into_iter()
                .filter(|o| !bad(o))
                .map(Arc::new),
        );
    }
    all
}

fn settings(random: &mut Random) -> Settings {
    Settings {
        internal: if random.once_in(4) {
            vec!["198.51.100.168/30".parse().unwrap()]
        } else {
            Vec::new()
        },
        unlisted_address: if random.once_in(3) {
            UnlistedAddress::ByName
        } else {
            UnlistedAddress::Refuse
        },
        allow_any: random.once_in(8),
        ..Settings::default()
    }
}

/// A gate with these rules, and the names that it asked for.
fn gate(random: &mut Random, documents: &[String]) -> (Gate, BTreeSet<Arc<str>>) {
    let mut gate = Gate::without_rules(settings(random));
    gate.rules(&valid(documents));
    let names = answer(&mut gate.state, gate.now);
    gate.write();
    (gate, names)
}

fn answer(state: &mut State, now: std::time::Instant) -> BTreeSet<Arc<str>> {
    let mut names = BTreeSet::new();
    while let Some(query) = state.poll_query() {
        let known = ANSWERS.iter().find(|(name, _)| **name == *query.name);
        let addresses = known.map_or(&[][..], |(_, all)| all);
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let ttl = Duration::from_hours(1);
        state.handle_answer(now, &query.name, Ok(Answer { addresses, ttl }));
        names.insert(query.name);
    }
    names
}

/// The verdict on a flow at the kernel and the proxy, as these carry it out.
fn carried_out(gate: &mut Gate, flow: &Flow, asked: &Asked) -> End {
    let routes = gate.state.routes();
    match gate.verdict(PolicyId(0), flow.to, flow.transport.number()) {
        Verdict::Allow => None,
        // No policy here intercepts DNS.
        Verdict::Deny(_) | Verdict::Dns => Some(DeniedBy::Kernel),
        Verdict::Proxy => proxied(&routes, flow, asked),
    }
}

fn proxied(routes: &RouteTable, flow: &Flow, asked: &Asked) -> End {
    let to = flow.to;
    let authority = match asked.scheme {
        // The Host that a client sends for the URL, with or without a port.
        Some("http") | None => asked.authority(),
        _ => asked.host.clone(),
    };
    let request = format!("GET {} HTTP/1.1\r\nHost: {authority}\r\n\r\n", asked.path);
    let first: &[u8] = match flow.speaks {
        Speaks::Http => request.as_bytes(),
        Speaks::Http2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        Speaks::Tls => &[0x16, 0x03, 0x01, 0x02, 0x00],
        Speaks::Bytes => b"\0\0\0\x08\x04\xd2\x16\x2f",
    };
    let status = |code| Some(DeniedBy::Status(code));
    let served = |cluster: &Cluster, otherwise: End| {
        if candidates(cluster, to, || 3).is_empty() {
            otherwise
        } else {
            None
        }
    };
    match routes.reading(PolicyId(0), to, 3).first_bytes(sniff(first)) {
        Step::HttpIfListed(cluster) if !routes.lists_host(PolicyId(0), to, &authority) => {
            served(&cluster, Some(DeniedBy::Closed))
        }
        Step::Http | Step::Http2 | Step::AnyHttp | Step::HttpIfListed(_) => {
            let mut reader = HeadReader::new(1 << 16);
            reader.push(request.as_bytes());
            let HeadOutcome::Head(read) = reader.next_head() else {
                return status(400);
            };
            let line = String::from_utf8(read.bytes).unwrap();
            let head = RequestHead {
                authority: &read.authority,
                method: "GET",
                path: line.split(' ').nth(1).unwrap(),
                headers: &HeaderMap::new(),
            };
            match routes.http(PolicyId(0), to, &head, 3) {
                // Without destinations, the proxy answers as the route says.
                HttpDecision::Act(act) => act
                    .action
                    .destinations()
                    .and_then(|to| served(&to.cluster, status(503))),
                HttpDecision::UnlistedHost => status(502),
                HttpDecision::NoRoute => status(404),
                HttpDecision::NoCluster(_) | HttpDecision::NotCarriedOut(_) => status(503),
            }
        }
        Step::NotHttp => status(400),
        Step::UpgradeRequired => status(426),
        Step::Tls(otherwise) if flow.speaks == Speaks::Tls => {
            let name = asked.host.to_ascii_lowercase();
            let name = Some(name.as_str()).filter(|_| asked.address().is_none());
            match (otherwise, name) {
                (Some(cluster), None) => served(&cluster, Some(DeniedBy::Closed)),
                _ => match routes.tls(PolicyId(0), to, name, 3) {
                    TlsDecision::Forward(cluster) => served(&cluster, Some(DeniedBy::Closed)),
                    TlsDecision::UnlistedName
                    | TlsDecision::NotCarriedOut(_)
                    | TlsDecision::NoCluster(_) => Some(DeniedBy::Closed),
                },
            }
        }
        Step::Relay(cluster) | Step::Tls(Some(cluster)) => served(&cluster, Some(DeniedBy::Closed)),
        Step::Tls(None) | Step::Deny(_) | Step::Close => Some(DeniedBy::Closed),
    }
}

/// Whether anything that a client could say passes at an address, by TCP or UDP.
fn anything_passes(gate: &mut Gate, to: SocketAddr, asked: &Asked) -> bool {
    let mut hosts = vec![asked.host.clone()];
    hosts.extend(ANSWERS.iter().map(|(name, _)| (*name).to_owned()));
    hosts.extend(["any.example", "any.sub.example"].map(str::to_owned));
    let mut ends = |transport, speaks, host: &str, path| {
        let flow = Flow {
            to,
            transport,
            speaks,
        };
        let asked = Asked {
            host: host.to_owned(),
            path,
            scheme: None,
            ..asked.clone()
        };
        carried_out(gate, &flow, &asked)
    };
    let bytes = [
        ends(Transport::Udp, Speaks::Bytes, &asked.host, "/"),
        ends(Transport::Tcp, Speaks::Bytes, &asked.host, "/"),
    ];
    bytes.contains(&None)
        || hosts.iter().any(|host| {
            // A host whose routes are for other paths is listed there.
            let http = ends(Transport::Tcp, Speaks::Http, host, "/");
            matches!(http, None | Some(DeniedBy::Status(404)))
                || ends(Transport::Tcp, Speaks::Tls, host, "/").is_none()
        })
}

/// The addresses that a client dials are those that the agent knows for the name.
fn dials_what_is_known(
    explained: &Explanation,
    asked: &Asked,
    (gate, names): (&Gate, &BTreeSet<Arc<str>>),
) -> bool {
    let host = asked.host.to_ascii_lowercase();
    let unheard = gate.state.addressless();
    let known = ANSWERS.iter().find(|(name, _)| *name == host);
    let is_asked_for = names.contains(host.as_str());
    match known {
        Some((_, addresses)) if is_asked_for && !unheard.iter().any(|n| **n == host) => {
            let mut all: Vec<_> = explained.flows.iter().map(|f| f.to.ip()).collect();
            let mut expected: Vec<std::net::IpAddr> =
                addresses.iter().map(|a| a.parse().unwrap()).collect();
            all.sort();
            all.dedup();
            expected.sort();
            all == expected
        }
        _ => !explained.flows.is_empty(),
    }
}

fn compare(gate: &mut Gate, names: &BTreeSet<Arc<str>>, asked: &Asked, context: &str) -> End {
    let question = Question::parse(&asked.text()).unwrap();
    let explained = gate.state.explain(PolicyId(0), &question);
    let ends: Vec<End> = explained
        .flows
        .iter()
        .map(|flow| carried_out(gate, flow, asked))
        .collect();
    let told = format!(
        "{}: {explained:#?}\nreally {ends:?}\n{context}",
        asked.text()
    );
    let expected = match (asked.address(), asked.scheme) {
        (Some(ip), None) => {
            let to = SocketAddr::new(ip, asked.port);
            let passes = anything_passes(gate, to, asked);
            assert_eq!(explained.allowed(), passes, "{told}");
            return explained.denied;
        }
        (Some(ip), Some(_)) => {
            assert_eq!(
                explained.flows[0].to,
                SocketAddr::new(ip, asked.port),
                "{told}"
            );
            ends[0]
        }
        (None, _) => {
            assert!(
                dials_what_is_known(&explained, asked, (gate, names)),
                "{told}"
            );
            ends.iter().copied().find(Option::is_some).flatten()
        }
    };
    assert_eq!(explained.denied, expected, "{told}");
    // Words for every verdict.
    let word = if expected.is_none() {
        "allowed: "
    } else {
        "denied: "
    };
    assert!(explained.lines[0].starts_with(word), "{told}");
    assert!(explained.lines.iter().all(|line| line.len() > 3), "{told}");
    expected
}

#[test]
fn explain_says_what_the_gate_does_for_random_rules_and_destinations() {
    let seed = std::env::var("EGRESS_SEED").map_or(1, |text| text.parse().unwrap());
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for set in 0..RULE_SETS {
        let mut random = Random::new(seed * 1_000_003 + set);
        let documents = rules(&mut random);
        let (mut gate, names) = gate(&mut random, &documents);
        let context = format!("EGRESS_SEED={seed}, rule set {set}\n{}", documents.concat());
        for _ in 0..DESTINATIONS {
            let asked = asked(&mut random);
            let end = compare(&mut gate, &names, &asked, &context);
            *ends.entry(format!("{end:?}")).or_default() += 1;
        }
    }
    let pairs: usize = ends.values().sum();
    println!("seed {seed}, {pairs} pairs without a difference: {ends:?}");
    // Every verdict must be frequent. Otherwise the comparison means little.
    assert!(
        ends.len() >= 6 && ends.values().filter(|count| **count >= 20).count() >= 6,
        "{ends:?}"
    );
}
