//! Rule documents as text, for tests that make many of them.
//!
//! Owns how a document is written, and what Istio's validation would not take: a name twice, a
//! wildcard that is to be resolved, networks beside DNS. The callers choose the rules.

/// A document of one kind with a spec, which ends in a line break.
pub fn document(kind: &str, name: &str, spec: &str) -> String {
    let version = "networking.istio.io/v1";
    format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}")
}

/// A port of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// The number that clients dial.
    pub number: u16,
    /// As in YAML: `""` for none.
    pub protocol: &'static str,
    /// `targetPort`.
    pub target: Option<u16>,
}

/// How hosts of an entry are resolved: as asked for, but a wildcard never by DNS.
pub fn resolution(host: &str, asked: &'static str) -> &'static str {
    if host.contains('*') && asked.starts_with("DNS") {
        "NONE"
    } else {
        asked
    }
}

/// A `ServiceEntry`. Of ports with one number the first counts. `addresses` and `endpoints` are
/// lines of the spec, or empty; addresses with a length are left out where DNS resolves.
pub fn service_entry(
    name: &str,
    host: &str,
    resolution: &str,
    ports: &[Port],
    addresses: &str,
    endpoints: &str,
) -> String {
    let mut all: Vec<String> = Vec::new();
    for (n, port) in ports.iter().enumerate() {
        let Port {
            number,
            protocol,
            target,
        } = *port;
        if ports[..n].iter().any(|p| p.number == number) {
            continue;
        }
        let target = target.map_or(String::new(), |port| format!(", targetPort: {port}"));
        all.push(format!(
            "{{number: {number}, name: p{n}, protocol: {protocol}{target}}}"
        ));
    }
    let ports = all.join(", ");
    let addresses = if addresses.contains('/') && resolution.starts_with("DNS") {
        ""
    } else {
        addresses
    };
    let spec = format!(
        "  hosts: [\"{host}\"]\n  resolution: {resolution}\n  ports: [{ports}]\n  {addresses}\n  {endpoints}\n"
    );
    document("ServiceEntry", name, &spec)
}
