//! Properties of any rules: adding a rule narrows no other rule, removing it restores the tables, and neither the order
//! of files nor the history of a rule set matters.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod gate;

use egress_core::istio::Object;
use egress_core::policy::state::Settings;
use egress_ebpf::ids::PolicyId;
use gate::documents::{Port, document, resolution, service_entry};
use gate::random::Random;
use gate::{Gate, Outcome, Spoken, objects};
use proptest::prelude::*;
use std::net::SocketAddr;
use std::sync::Arc;

const HOSTS: [&str; 4] = ["a.example", "b.example", "c.example", "*.example"];
/// Two names share an address.
const ANSWERS: [(&str, &str); 3] = [
    ("a.example", "203.0.113.1"),
    ("b.example", "203.0.113.1"),
    ("c.example", "203.0.113.2"),
];
const ADDRESSES: [&str; 6] = [
    "",
    "addresses: [203.0.113.1]",
    "addresses: [203.0.113.0/24]",
    "addresses: [203.0.113.0/31, \"2001:db8::/32\"]",
    "addresses: [198.51.100.7]",
    "addresses: [0.0.0.0/1]",
];
const PROTOCOLS: [&str; 6] = ["HTTP", "TLS", "TCP", "\"\"", "UDP", "GRPC"];
const PORTS: [u16; 2] = [80, 443];

#[derive(Clone, Debug)]
struct Entry {
    host: usize,
    resolution: usize,
    addresses: usize,
    ports: Vec<(usize, usize, bool)>,
}

impl Entry {
    fn text(&self, name: &str) -> String {
        let host = HOSTS[self.host];
        let asked = ["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN"][self.resolution];
        let resolution = resolution(host, asked);
        let port = |(port, protocol, moved): &(usize, usize, bool)| Port {
            number: PORTS[*port],
            protocol: PROTOCOLS[*protocol],
            target: moved.then_some(8443),
        };
        let ports: Vec<Port> = self.ports.iter().map(port).collect();
        let endpoints = if resolution == "STATIC" {
            "endpoints: [{address: 203.0.113.3}]"
        } else {
            ""
        };
        let addresses = ADDRESSES[self.addresses];
        service_entry(name, host, resolution, &ports, addresses, endpoints)
    }
}

fn entry() -> impl Strategy<Value = Entry> {
    let port = (
        0..PORTS.len(),
        0..PROTOCOLS.len(),
        prop::bool::weighted(0.2),
    );
    let ports = prop::collection::vec(port, 1..3);
    (0..HOSTS.len(), 0..4_usize, 0..ADDRESSES.len(), ports).prop_map(
        |(host, resolution, addresses, ports)| Entry {
            host,
            resolution,
            addresses,
            ports,
        },
    )
}

/// A `VirtualService` of one of a few forms.
fn rule(name: usize, form: usize) -> String {
    let host = HOSTS[form % 3];
    let other = HOSTS[(form + 1) % 3];
    let to =
        |h: &str, p: u16| format!("route: [{{destination: {{host: {h}, port: {{number: {p}}}}}}}]");
    let body = match form / 3 {
        0 => format!("http: [{{timeout: 3s, {}}}]", to(host, 80)),
        1 => format!(
            "http: [{{match: [{{uri: {{prefix: /x}}}}], {}}}, {{{}}}]",
            to(other, 80),
            to(host, 80)
        ),
        2 => format!(
            "tls: [{{match: [{{port: 443, sniHosts: [{host}]}}], {}}}]",
            to(other, 443)
        ),
        _ => format!("tcp: [{{match: [{{port: 443}}], {}}}]", to(other, 443)),
    };
    let spec = format!("  hosts: [{host}]\n  {body}\n");
    document("VirtualService", &format!("v{name}"), &spec)
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    let entries = prop::collection::vec(entry(), 0..5);
    (entries, prop::collection::vec(0..12_usize, 0..3)).prop_map(|(entries, rules)| {
        let entries = entries
            .iter()
            .enumerate()
            .map(|(n, e)| e.text(&format!("e{n}")));
        entries
            .chain(rules.iter().enumerate().map(|(n, form)| rule(n, *form)))
            .collect()
    })
}

fn gate(all: &[Arc<Object>]) -> Gate {
    let internal = vec![
        "10.0.0.0/8".parse().unwrap(),
        "198.51.100.99/32".parse().unwrap(),
    ];
    let settings = Settings {
        internal,
        ..Settings::default()
    };
    let mut gate = Gate::new(
        settings,
        &Entry {
            host: 0,
            resolution: 0,
            addresses: 4,
            ports: vec![],
        }
        .text("none"),
    );
    gate.rules(all);
    resolve(&mut gate);
    gate
}

fn resolve(gate: &mut Gate) {
    for (name, address) in ANSWERS {
        gate.answer(name, &[address]);
    }
}

fn flows() -> Vec<(SocketAddr, Spoken<'static>)> {
    let addresses = [
        "203.0.113.1",
        "203.0.113.2",
        "203.0.113.3",
        "203.0.113.99",
        "198.51.100.7",
        "198.51.100.99",
        "10.1.2.3",
        "192.0.2.1",
        "2001:db8::1",
    ];
    let spoken = [
        Spoken::Http("a.example"),
        Spoken::Http("c.example"),
        Spoken::Http("z.example"),
        Spoken::Http("other"),
        Spoken::Tls(Some("a.example")),
        Spoken::Tls(Some("z.example")),
        Spoken::Tls(None),
        Spoken::Bytes,
    ];
    let mut all = Vec::new();
    for address in addresses {
        for port in [80, 443, 22] {
            let to = SocketAddr::new(address.parse().unwrap(), port);
            all.extend(spoken.map(|s| (to, s)));
        }
    }
    all
}

/// Whether a flow reaches something.
fn reaches(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Original | Outcome::To(_))
}

/// Whether it is not denied for want of an entry: a 404 or 503 comes from the `VirtualService` of a Host.
fn is_listed(outcome: &Outcome) -> bool {
    reaches(outcome) || matches!(outcome, Outcome::Status(404 | 503))
}

fn parsed(texts: &[String]) -> Vec<Arc<Object>> {
    texts.iter().flat_map(|t| objects(t)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// The added entry is the youngest. If two entries for one host cannot be merged, the older one counts.
    #[test]
    fn adding_an_entry_never_narrows_and_taking_it_away_restores_everything(base in texts(), added in entry()) {
        let base = parsed(&base);
        let mut gate = gate(&base);
        let before: Vec<_> = flows().into_iter().map(|(to, s)| gate.flow(PolicyId(0), to, s)).collect();
        let (tables, routes) = (gate.kernel.content(PolicyId(0)), gate.routes(PolicyId(0)));
        let more = [base.clone(), parsed(&[added.text("zz")])].concat();
        gate.rules(&more);
        resolve(&mut gate);
        for ((to, spoken), old) in flows().into_iter().zip(&before) {
            let new = gate.flow(PolicyId(0), to, spoken);
            prop_assert!(!reaches(old) || is_listed(&new), "{to} {spoken:?}: {old:?} became {new:?}\n{}", added.text("zz"));
        }
        gate.rules(&base);
        prop_assert_eq!(gate.kernel.content(PolicyId(0)), tables);
        prop_assert_eq!(gate.routes(PolicyId(0)), routes);
    }

    #[test]
    fn the_order_of_files_does_not_matter(texts in texts(), seed in any::<u64>()) {
        let ordered = parsed(&texts);
        let mut shuffled = ordered.clone();
        let mut random = Random::new(seed);
        for n in (1..shuffled.len()).rev() {
            shuffled.swap(n, random.below(n + 1));
        }
        let (mut first, mut second) = (gate(&ordered), gate(&shuffled));
        prop_assert_eq!(first.kernel.content(PolicyId(0)), second.kernel.content(PolicyId(0)));
        prop_assert_eq!(first.routes(PolicyId(0)), second.routes(PolicyId(0)));
    }

    #[test]
    fn rules_changed_one_by_one_are_as_compiled_anew(from in texts(), to in texts()) {
        let (from, to) = (parsed(&from), parsed(&to));
        let mut step = gate(&from);
        let mut now = from;
        for object in &to {
            now.push(Arc::clone(object));
            step.rules(&now);
        }
        resolve(&mut step);
        while now.len() > to.len() {
            now.remove(0);
            step.rules(&now);
        }
        resolve(&mut step);
        let mut fresh = gate(&to);
        prop_assert_eq!(step.kernel.content(PolicyId(0)), fresh.kernel.content(PolicyId(0)));
        prop_assert_eq!(step.routes(PolicyId(0)), fresh.routes(PolicyId(0)));
        prop_assert_eq!(step.state.unresolved(), fresh.state.unresolved());
    }
}
