//! The rules of the bench, and the addresses that they list.
//!
//! Every address is below 20.0.0.0/8, which is local in the bench's network namespace: a connect that
//! the gate allows is answered by the kernel with a reset, and leaves no port behind.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

/// The TCP port of each service, which goes straight through.
pub const PORT: u16 = 5432;
/// Objects of one file.
const IN_A_FILE: usize = 500;
/// The first addresses of the services that all see, of each view's own service, of edited objects, and of names.
const SERVICES: u32 = 0x1400_0000;
const OWN: u32 = 0x1440_0000;
const EDITED: u32 = 0x1480_0000;
const NAMES: u32 = 0x14a0_0000;
/// The first of many addresses that one object lists.
const LIST: u32 = 0x14c0_0000;
/// The namespace of the objects that list them.
const LIST_NAMESPACE: &str = "list";
/// Addresses of one such object, whose file must stay below 4 MiB.
const IN_AN_OBJECT: usize = 100_000;

fn at(begin: u32, n: usize, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from_bits(begin + n as u32).into(), port)
}

/// A service that every workload sees.
pub fn service(n: usize) -> SocketAddr {
    at(SERVICES, n, PORT)
}

/// The service that only the workload `n` sees.
pub fn own(n: usize) -> SocketAddr {
    at(OWN, n, PORT)
}

/// The destination that an edit lists, at the edit's port.
pub fn edited(n: usize, port: u16) -> SocketAddr {
    at(EDITED, n, port)
}

/// The address of a name.
pub fn name(n: usize) -> SocketAddr {
    at(NAMES, n, PORT)
}

/// One of many addresses.
pub fn list(n: usize) -> SocketAddr {
    at(LIST, n, PORT)
}

/// A name.
pub fn host(n: usize) -> String {
    format!("h{n}.example.com")
}

/// The number in the first label of [`host`]. A question has its letters in any case.
pub fn number(label: &[u8]) -> Option<u32> {
    let digits = label.strip_prefix(b"h").or(label.strip_prefix(b"H"))?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The address that the DNS server gives for it.
pub fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(NAMES.wrapping_add(number))
}

fn head(kind: &str, name: &str, namespace: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: \
         {namespace}}}\nspec:\n"
    )
}

/// How many ports a service has. Each takes an entry in the table of each view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// A TCP port.
    One,
    /// A TCP port, and one of TLS that goes through the proxy.
    Two,
}

fn fixed(name: &str, namespace: &str, own: bool, to: SocketAddr, ports: Ports) -> String {
    let export = if own { "  exportTo: ['.']\n" } else { "" };
    let port = to.port();
    let tls = match ports {
        Ports::One => "",
        Ports::Two => ", {number: 443, name: tls, protocol: TLS}",
    };
    format!(
        "{}  hosts: [{name}.example]\n{export}  resolution: STATIC\n  ports: \
         [{{number: {port}, name: tcp, protocol: TCP}}{tls}]\n  endpoints: [{{address: {ip}}}]\n",
        head("ServiceEntry", name, namespace),
        ip = to.ip()
    )
}

/// Files with a service for all, `services` of them, and one for each of `views` namespaces.
pub fn all(views: usize, services: usize, ports: Ports) -> Vec<(String, String)> {
    let mut objects: Vec<String> = Vec::new();
    let shared = |n| fixed(&format!("s{n}"), "all", false, service(n), ports);
    let one = |n| fixed(&format!("own{n}"), &namespace(n), true, own(n), ports);
    objects.extend((0..services).map(shared));
    objects.extend((0..views).map(one));
    let files = objects.chunks(IN_A_FILE).enumerate();
    files
        .map(|(n, part)| (format!("all-{n}.yaml"), part.concat()))
        .collect()
}

/// The namespace of a workload.
pub fn namespace(n: usize) -> String {
    format!("ns-{n}")
}

/// Files with objects that list `count` addresses for all.
pub fn listed(count: usize) -> Vec<(String, String)> {
    let file = |from: usize| {
        let to = count.min(from + IN_AN_OBJECT);
        let some: Vec<_> = (from..to).map(|n| list(n).ip().to_string()).collect();
        let name = format!("list-{from}");
        let text = format!(
            "{}  hosts: [{name}.example]\n  addresses: [{}]\n  resolution: NONE\n  ports: \
             [{{number: {PORT}, name: tcp, protocol: TCP}}]\n",
            head("ServiceEntry", &name, LIST_NAMESPACE),
            some.join(", ")
        );
        (format!("{name}.yaml"), text)
    };
    (0..count).step_by(IN_AN_OBJECT).map(file).collect()
}

/// Services of the names `from..to`, in one file's text, with this name of their port.
pub fn named(from: usize, to: usize, port: &str) -> String {
    let mut text = String::new();
    for n in from..to {
        let host = host(n);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{}  hosts: [{host}]\n  resolution: DNS\n  ports: [{{number: {PORT}, name: {port}, \
             protocol: TCP}}]\n",
            head("ServiceEntry", &format!("n{n}"), "all")
        );
    }
    text
}

/// An edit's service, seen by all or by its own namespace.
pub fn entry(namespace: &str, own: bool, to: SocketAddr) -> String {
    fixed("edited", namespace, own, to, Ports::Two)
}

/// A service that a Sidecar may import.
pub fn extra(to: SocketAddr) -> String {
    fixed("extra", "extra", false, to, Ports::Two)
}

/// A Sidecar that imports the services for all, and either the extra service or the many addresses, or both or none.
pub fn sidecar(namespace: &str, extra: bool, list: bool) -> String {
    let mut hosts = vec!["'./*'".to_owned(), "'all/*'".to_owned()];
    hosts.extend(extra.then(|| "'extra/*'".to_owned()));
    hosts.extend(list.then(|| format!("'{LIST_NAMESPACE}/*'")));
    format!(
        "{}  egress: [{{hosts: [{}]}}]\n",
        head("Sidecar", "edited", namespace),
        hosts.join(", ")
    )
}

/// A DestinationRule of one namespace for the first service.
pub fn destination_rule(namespace: &str, seconds: usize) -> String {
    format!(
        "{}  host: s0.example\n  exportTo: ['.']\n  trafficPolicy: {{connectionPool: {{tcp: \
         {{connectTimeout: {seconds}s}}}}}}\n",
        head("DestinationRule", "edited", namespace)
    )
}
