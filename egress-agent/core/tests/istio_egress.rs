//! The expectations of Istio's own tests for egress, and where the gate differs on purpose (`docs/differences.md`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod gate;

use egress_core::policy::claims::UnlistedAddress;
use egress_core::policy::state::Settings;
use egress_ebpf::ids::PolicyId;
use gate::{Gate, Outcome, Spoken};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

const MATRIX: &str = include_str!("../../../tests/data/istio/passthrough-matrix.tsv");
/// This test makes the part of the page between these lines.
const BEGIN: &str =
    "<!-- matrix: made by `EGRESS_BLESS=1 cargo test -p egress-core --test istio_egress` -->\n";
const END: &str = "<!-- end -->\n";

const PORTS: &str = "[{number: 80, name: http, protocol: HTTP}, {number: 81, name: auto}, \
    {number: 82, name: tcp, protocol: TCP}, {number: 83, name: tls, protocol: TLS}, \
    {number: 84, name: https, protocol: HTTPS}, {number: 85, name: grpc, protocol: GRPC}, \
    {number: 86, name: h2, protocol: HTTP2}]";

fn entry(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refused => "denied".into(),
        Outcome::Closed => "closed".into(),
        Outcome::Status(status) => status.to_string(),
        Outcome::Original => "original".into(),
        Outcome::To(service) => service.clone(),
    }
}

struct Row<'a> {
    columns: BTreeMap<&'a str, &'a str>,
}

impl<'a> Row<'a> {
    fn all() -> Vec<Self> {
        let mut lines = MATRIX.lines();
        let names: Vec<_> = lines.next().unwrap().split('\t').collect();
        let row = |line: &'a str| Self {
            columns: names.iter().copied().zip(line.split('\t')).collect(),
        };
        lines.map(row).collect()
    }

    fn get(&self, column: &str) -> &'a str {
        self.columns[column]
    }

    fn judge(&self, unlisted_address: UnlistedAddress) -> String {
        let addresses = match self.get("service_entry_addresses") {
            "none" => String::new(),
            vip => format!(", addresses: [{vip}]"),
        };
        let spec = format!("hosts: [istio.io], resolution: DNS, ports: {PORTS}{addresses}");
        let settings = Settings {
            allow_any: self.get("outbound_mode") != "REGISTRY_ONLY",
            unlisted_address,
            ..Settings::default()
        };
        let mut gate = Gate::new(settings, &entry("se", &spec));
        gate.answer("istio.io", &["203.0.113.9"]);
        let to = format!("{}:{}", self.get("dest_ip"), self.get("dest_port"));
        let spoken = match (self.get("client_protocol"), self.get("client_tls")) {
            (_, "tls") => Spoken::Tls(Some(self.get("host_header"))),
            ("http", _) => Spoken::Http(self.get("host_header")),
            _ => Spoken::Bytes,
        };
        word(&gate.flow(PolicyId(0), to.parse().unwrap(), spoken))
    }

    /// Istio's outcome in the words of the gate.
    fn istio(&self) -> &'static str {
        match (
            self.get("expected_cluster"),
            self.get("expected_virtual_host"),
        ) {
            ("BlackHoleCluster", _) => "closed",
            ("PassthroughCluster", _) => "original",
            ("AllowAnyDynamicDNSCluster", _) => "by its Host",
            (_, "block_all") => "502",
            _ => "to the service",
        }
    }

    fn spoken(&self) -> &'static str {
        match (self.get("client_protocol"), self.get("client_tls")) {
            (_, "tls") => "TLS",
            ("http", _) => "HTTP",
            _ => "bytes",
        }
    }
}

#[test]
fn every_row_of_the_passthrough_matrix_is_judged_as_its_last_columns_say() {
    let rows = Row::all();
    assert_eq!(rows.len(), 210);
    for row in &rows {
        let seen = row.judge(UnlistedAddress::Refuse);
        assert_eq!(seen, row.get("gate"), "{:?}", row.columns);
        let by_name = row.judge(UnlistedAddress::ByName);
        assert_eq!(
            by_name,
            row.get("gate_by_name"),
            "by name: {:?}",
            row.columns
        );
    }
}

/// Rows that differ only in the port are one line.
fn table() -> String {
    let mut lines: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
    for row in Row::all() {
        let key = vec![
            row.get("outbound_mode"),
            row.get("service_entry_addresses"),
            row.spoken(),
            row.istio(),
            row.get("gate"),
            row.get("gate_by_name"),
        ];
        let ports = lines.entry(key).or_default();
        let port = row.get("dest_port");
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    let mut table = String::from(
        "| mode | addresses | client speaks | ports | sidecar | gate | gate, `unlistedAddress: byName` |\n|---|---|---|---|---|---|---|\n",
    );
    for (key, ports) in lines {
        let differs = |own: &str| {
            if own == key[3] {
                String::new()
            } else {
                "**".into()
            }
        };
        let (mode, addresses, spoken, istio) = (key[0], key[1], key[2], key[3]);
        let (own, by_name) = (differs(key[4]), differs(key[5]));
        writeln!(
            table,
            "| {mode} | {addresses} | {spoken} | {} | {istio} | {own}{}{own} | {by_name}{}{by_name} |",
            ports.join(", "),
            key[4],
            key[5]
        )
        .unwrap();
    }
    table
}

#[test]
fn the_page_of_differences_holds_the_matrix_as_it_is() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/differences.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the line before the table");
    let (_, after) = rest.split_once(END).expect("the line after the table");
    let made = format!("{before}{BEGIN}{}{END}{after}", table());
    if std::env::var_os("EGRESS_BLESS").is_some() {
        std::fs::write(&page, made).unwrap();
        return;
    }
    assert!(
        text == made,
        "docs/differences.md is old: run this test with EGRESS_BLESS=1"
    );
}

/// Cases of `pilot/pkg/networking/core/serviceentry_simulation_test.go`: port 9999, resolution
/// NONE, two entries.
#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn addresses_lead_to_the_entry_that_istio_finds() {
    let long = "1234:1f1:123:123:f816:3eff:feb8:2287";
    let other = "1234:1f1:123:123:f816:3eff:febf:57ce";
    let inside = "1234:1f1:1:1:1:1:1:1";
    let (wide, narrow) = (format!("[\"{long}/16\"]"), format!("[\"{other}/128\"]"));
    let same = (format!("[\"{long}/32\"]"), format!("[\"{other}/32\"]"));
    let one = |to: &str| Outcome::To(format!("{to}:9999"));
    let tls = |sni| Spoken::Tls(Some(sni));
    let (blah1, blah2) = ("blah1.somedomain", "blah2.somedomain");
    let (partial, both) = ("[1.1.1.1]".to_owned(), "[2.2.2.2, 1.1.1.1]".to_owned());
    for (protocol, (first, second), dialled, spoken, expected) in [
        // The service is visible if the proxy must decide. The kernel allows TCP.
        ("TCP", &same, inside, Spoken::Bytes, Outcome::Original),
        (
            "TCP",
            &(wide.clone(), narrow.clone()),
            other,
            Spoken::Bytes,
            Outcome::Original,
        ),
        (
            "TCP",
            &(wide.clone(), narrow.clone()),
            "1234::1",
            Spoken::Bytes,
            Outcome::Original,
        ),
        (
            "TCP",
            &(wide.clone(), narrow.clone()),
            "2345::1",
            Spoken::Bytes,
            Outcome::Refused,
        ),
        (
            "TLS",
            &(wide.clone(), narrow.clone()),
            other,
            tls(blah2),
            one(blah2),
        ),
        (
            "TLS",
            &(wide.clone(), narrow.clone()),
            "1234::1",
            tls(blah1),
            one(blah1),
        ),
        // Istio takes the address first and lets this one fall through (istio#52235).
        (
            "TLS",
            &(wide.clone(), narrow.clone()),
            other,
            tls(blah1),
            one(blah1),
        ),
        (
            "TLS",
            &(wide.clone(), narrow.clone()),
            "1234::1",
            tls(blah2),
            Outcome::Closed,
        ),
        (
            "TCP",
            &(partial.clone(), both.clone()),
            "2.2.2.2",
            Spoken::Bytes,
            Outcome::Original,
        ),
        (
            "TCP",
            &(partial.clone(), both.clone()),
            "1.1.1.1",
            Spoken::Bytes,
            Outcome::Original,
        ),
        (
            "HTTP",
            &(partial.clone(), both.clone()),
            "1.1.1.1",
            Spoken::Http(blah1),
            one(blah1),
        ),
        (
            "HTTP",
            &(partial.clone(), both.clone()),
            "2.2.2.2",
            Spoken::Http(blah2),
            one(blah2),
        ),
        // Host and destination must both be listed.
        (
            "HTTP",
            &(partial, both),
            "2.2.2.2",
            Spoken::Http(blah1),
            Outcome::Status(502),
        ),
    ] {
        let se = |name: &str, host: &str, addresses: &str, target: &str| {
            let port = format!("{{number: 9999, name: p, protocol: {protocol}{target}}}");
            entry(
                name,
                &format!(
                    "hosts: [{host}], addresses: {addresses}, ports: [{port}], resolution: NONE"
                ),
            )
        };
        let rules = se("a", blah1, first, "") + &se("b", blah2, second, "");
        let to = std::net::SocketAddr::new(dialled.parse().unwrap(), 9999);
        let mut gate = Gate::new(Settings::default(), &rules);
        assert_eq!(
            gate.flow(PolicyId(0), to, spoken),
            expected,
            "{protocol} {first} {second} {dialled} {spoken:?}"
        );
        if protocol == "TCP" && expected == Outcome::Original {
            // A port that only the proxy can reach makes it visible.
            let rules = se("a", blah1, first, ", targetPort: 9998")
                + &se("b", blah2, second, ", targetPort: 9998");
            let host = if [other, "2.2.2.2"].contains(&dialled) {
                blah2
            } else {
                blah1
            };
            let mut gate = Gate::new(Settings::default(), &rules);
            assert_eq!(
                gate.flow(PolicyId(0), to, spoken),
                one(host),
                "{first} {second} {dialled}"
            );
        }
    }
}

#[test]
fn one_host_in_two_entries_has_the_ports_of_both() {
    let rules = entry(
        "a",
        "hosts: [istio.io], resolution: DNS, ports: [{number: 80, name: h, protocol: HTTP}]",
    ) + &entry(
        "b",
        "hosts: [istio.io], resolution: DNS, ports: [{number: 443, name: s, protocol: HTTPS}]",
    );
    let mut gate = Gate::new(Settings::default(), &rules);
    gate.answer("istio.io", &["203.0.113.9"]);
    let http = gate.flow(
        PolicyId(0),
        "203.0.113.9:80".parse().unwrap(),
        Spoken::Http("istio.io"),
    );
    assert_eq!(http, Outcome::To("istio.io:80".into()));
    let tls = gate.flow(
        PolicyId(0),
        "203.0.113.9:443".parse().unwrap(),
        Spoken::Tls(Some("istio.io")),
    );
    assert_eq!(tls, Outcome::To("istio.io:443".into()));
}

/// Second address of an entry with several (`testServiceEntryWithMultipleVIPsAndResolutionNone`).
#[test]
fn every_address_of_an_entry_counts() {
    let spec = "hosts: [server.default.svc], addresses: [203.0.113.0/24, 198.51.100.0/24], \
        ports: [{number: 443, name: t, protocol: TCP}], resolution: NONE";
    let mut gate = Gate::new(Settings::default(), &entry("a", spec));
    for address in ["203.0.113.77:443", "198.51.100.77:443"] {
        let outcome = gate.flow(
            PolicyId(0),
            address.parse().unwrap(),
            Spoken::Tls(Some("any")),
        );
        assert_eq!(outcome, Outcome::Original, "{address}");
    }
}

/// Forms of Host (`hostCases` of `tests/integration/pilot/common/routing.go`): the port in it does
/// not count.
#[test]
fn every_form_of_a_host_leads_to_it_and_its_port_does_not_count() {
    let spec = "hosts: [s.ns.svc.cluster.local, s.ns.svc], resolution: STATIC, \
        endpoints: [{address: 203.0.113.9}], ports: [{number: 80, name: h, protocol: HTTP}]";
    let mut gate = Gate::new(Settings::default(), &entry("a", spec));
    for (host, known) in [
        ("s.ns.svc.cluster.local", true),
        ("s.ns.svc.cluster.local:80", true),
        ("s.ns.svc.cluster.local:12345", true),
        ("S.NS.svc.cluster.local.", true),
        ("s.ns.svc", true),
        ("s.ns.svc:12345", true),
        ("s.ns", false),
        ("t.ns.svc", false),
    ] {
        let outcome = gate.flow(
            PolicyId(0),
            "203.0.113.9:80".parse().unwrap(),
            Spoken::Http(host),
        );
        assert_eq!(
            matches!(outcome, Outcome::To(_)),
            known,
            "{host} {outcome:?}"
        );
    }
}
