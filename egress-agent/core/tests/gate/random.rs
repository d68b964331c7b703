//! Random rules, and destinations near them. A seed gives the same ones on every machine.
//!
//! Owns the names, addresses and ports that rules and clients have in common. The callers check the
//! verdicts.

use super::documents::{Port, document, resolution, service_entry};
use std::net::IpAddr;

/// What DNS gives for each name. Two names share an address; the last two are listed by no entry
/// but a wildcard.
pub const ANSWERS: [(&str, &[&str]); 7] = [
    ("a.example", &["198.51.100.1"]),
    ("b.example", &["198.51.100.1", "2001:db8:2::1"]),
    ("c.example", &["198.51.100.2", "198.51.100.3"]),
    ("d.sub.example", &["2001:db8:2::4"]),
    ("e.example", &["198.51.100.5"]),
    ("z.example", &["198.51.100.26"]),
    ("y.sub.example", &["198.51.100.25", "2001:db8:2::25"]),
];
/// Every address that a flow to such a destination can end at: those above and below, endpoints, the
/// first of each network that is listed, and one that no rule names.
pub const WORLD: [&str; 18] = [
    "198.51.100.1",
    "198.51.100.2",
    "198.51.100.3",
    "198.51.100.5",
    "198.51.100.25",
    "198.51.100.26",
    "198.51.100.98",
    "198.51.100.161",
    "198.51.100.169",
    "198.51.100.170",
    "2001:db8:2::",
    "2001:db8:2::1",
    "2001:db8:2::4",
    "2001:db8:2::5",
    "2001:db8:2::25",
    "2001:db8:2::98",
    "192.0.2.1",
    "198.51.100.160",
];
/// Hosts that entries list. The first is the most common, so that entries and routes meet.
const HOSTS: [&str; 10] = [
    "a.example",
    "a.example",
    "a.example",
    "b.example",
    "b.example",
    "c.example",
    "d.sub.example",
    "e.example",
    "*.example",
    "*.sub.example",
];
/// Hosts that clients name: listed ones, those below wildcards, and ones that nobody lists.
const NAMES: [&str; 14] = [
    "a.example",
    "a.example",
    "a.example",
    "a.example",
    "a.example",
    "b.example",
    "b.example",
    "c.example",
    "d.sub.example",
    "e.example",
    "z.example",
    "y.sub.example",
    "other.test",
    "A.Example",
];
/// `spec.addresses`.
const LISTED: [&str; 8] = [
    "",
    "",
    "addresses: [198.51.100.1]",
    "addresses: [198.51.100.169, 198.51.100.170]",
    "addresses: [198.51.100.160/28]",
    "addresses: [198.51.100.0/24, \"2001:db8:2::/64\"]",
    "addresses: [\"2001:db8:2::4\"]",
    "addresses: [198.51.100.26/32, 198.51.100.3]",
];
/// Addresses that clients dial.
const DIALLED: [&str; 11] = [
    "198.51.100.1",
    "198.51.100.2",
    "198.51.100.3",
    "198.51.100.26",
    "198.51.100.98",
    "198.51.100.161",
    "198.51.100.169",
    "198.51.100.170",
    "2001:db8:2::1",
    "2001:db8:2::4",
    "2001:db8:2::98",
];
/// Ports that entries list.
pub const PORTS: [u16; 4] = [80, 443, 5432, 8080];
/// A port that no entry lists, and the `targetPort` of some.
pub const OTHER_PORTS: [u16; 2] = [22, 8081];
const PROTOCOLS: [&str; 11] = [
    "HTTP", "HTTP", "TLS", "HTTPS", "TCP", "TCP", "\"\"", "UDP", "GRPC", "HTTP2", "MONGO",
];
const PATHS: [&str; 9] = [
    "/",
    "/x",
    "/x/y?q=1",
    "/admin",
    "/moved",
    "/no/such",
    "/x/../admin",
    "/x/%2e%2e/no",
    "/%78/y",
];

/// A small generator of numbers (Marsaglia's xorshift).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or_default() % end
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// In one of `n` cases.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What a client dials, as `explain` is asked for it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `http`, `https`, or none.
    pub scheme: Option<&'static str>,
    /// A name, or an address as text.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path of the request.
    pub path: &'static str,
}

impl Asked {
    /// The address, where the host is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The host and port as they stand in a URL and in a Host header.
    pub fn authority(&self) -> String {
        match self.address() {
            Some(IpAddr::V6(v6)) => format!("[{v6}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// As it is written on the command line.
    pub fn text(&self) -> String {
        match self.scheme {
            Some(scheme) => format!("{scheme}://{}{}", self.authority(), self.path),
            None => self.authority(),
        }
    }
}

/// A destination.
pub fn asked(random: &mut Random) -> Asked {
    let host = if random.once_in(4) {
        random.of(&DIALLED)
    } else {
        random.of(&NAMES)
    };
    let scheme = random.of(&[Some("http"), Some("http"), Some("https"), None]);
    Asked {
        scheme,
        host: host.to_owned(),
        port: if random.once_in(20) {
            22
        } else {
            random.of(&PORTS)
        },
        path: scheme.map_or("/", |_| random.of(&PATHS)),
    }
}

/// Documents of one rule set, each of which may be invalid.
pub fn rules(random: &mut Random) -> Vec<String> {
    let mut all = Vec::new();
    for n in 0..2 + random.below(6) {
        all.push(entry(random, n));
    }
    for n in 0..random.below(5) {
        all.push(route(random, n));
    }
    if random.once_in(6) {
        all.push(sidecar(random));
    }
    all
}

fn entry(random: &mut Random, n: usize) -> String {
    let host = random.of(&HOSTS);
    let asked = random.of(&["NONE", "NONE", "STATIC", "DNS", "DNS", "DNS_ROUND_ROBIN"]);
    let resolution = resolution(host, asked);
    let mut ports = Vec::new();
    for _ in 0..2 + random.below(3) {
        ports.push(Port {
            number: random.of(&PORTS),
            protocol: random.of(&PROTOCOLS),
            target: random.once_in(8).then_some(8081),
        });
    }
    let addresses = random.of(&LISTED);
    let endpoints = match (resolution, random.below(4)) {
        ("STATIC", 0) => "",
        ("STATIC", 1) => "endpoints: [{address: 198.51.100.5}, {address: \"2001:db8:2::5\"}]",
        ("STATIC", _) => "endpoints: [{address: 198.51.100.3}]",
        ("DNS", 0) => "endpoints: [{address: e.example}]",
        _ => "",
    };
    let name = format!("e{n}");
    service_entry(&name, host, resolution, &ports, addresses, endpoints)
}

fn destination(random: &mut Random) -> String {
    let host = random.of(&["a.example", "b.example", "c.example", "gone.example"]);
    let port = random.of(&PORTS);
    if random.once_in(4) {
        format!("{{destination: {{host: {host}}}}}")
    } else {
        format!("{{destination: {{host: {host}, port: {{number: {port}}}}}}}")
    }
}

fn route(random: &mut Random, n: usize) -> String {
    let host = random.of(&HOSTS);
    let port = random.of(&PORTS);
    let to = destination(random);
    let body = match random.below(8) {
        0 => format!("http: [{{timeout: 3s, route: [{to}]}}]"),
        1 => format!("http: [{{match: [{{uri: {{prefix: /x}}}}], route: [{to}]}}]"),
        2 => format!(
            "http: [{{match: [{{uri: {{exact: /admin}}}}, {{port: {port}}}], route: [{to}]}}, {{route: [{}]}}]",
            destination(random)
        ),
        3 => format!(
            "http: [{{match: [{{uri: {{prefix: /moved}}}}], redirect: {{uri: /x}}}}, {{route: [{to}]}}]"
        ),
        4 | 5 => {
            format!("tls: [{{match: [{{port: {port}, sniHosts: [\"{host}\"]}}], route: [{to}]}}]")
        }
        6 => format!("tcp: [{{match: [{{port: {port}}}], route: [{to}]}}]"),
        _ => format!(
            "tcp: [{{match: [{{destinationSubnets: [198.51.100.160/28]}}], route: [{to}]}}]"
        ),
    };
    let spec = format!("  hosts: [\"{host}\"]\n  {body}\n");
    document("VirtualService", &format!("v{n}"), &spec)
}

fn sidecar(random: &mut Random) -> String {
    let host = random.of(&["*/a.example", "*/*.example", "*/*", "./c.example"]);
    let policy = random.of(&[
        "",
        "  outboundTrafficPolicy: {mode: ALLOW_ANY}\n",
        "  outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n",
    ]);
    let to = random.of(&HOSTS);
    let port = random.of(&PORTS);
    let proxy = format!(
        "  outboundTrafficPolicy: {{mode: ALLOW_ANY, egressProxy: {{host: \"{to}\", port: {{number: {port}}}}}}}\n"
    );
    let policy = if random.once_in(3) { &proxy } else { policy };
    let spec = format!("  egress: [{{hosts: [\"{host}\"]}}]\n{policy}");
    document("Sidecar", "default", &spec)
}
