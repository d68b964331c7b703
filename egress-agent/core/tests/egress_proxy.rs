//! `egressProxy` of a Sidecar: TCP that no rule lists goes to it, and nothing else does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod gate;

use egress_core::policy::state::Settings;
use egress_core::routing::TcpDecision;
use egress_ebpf::abi::proto;
use egress_ebpf::ids::PolicyId;
use egress_ebpf::verdict::Verdict;
use gate::{Gate, Outcome, Spoken, objects};
use std::net::SocketAddr;

const DEFAULT: PolicyId = PolicyId(0);
const SIDECAR: &str = "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\n\
    metadata: {name: default, namespace: istio-system}\nspec:\n  outboundTrafficPolicy: \
    {mode: ALLOW_ANY, egressProxy: {host: proxy.example, port: {number: 3128}}}\n";
const PROXY: &str = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
    metadata: {name: proxy}\nspec: {hosts: [proxy.example], resolution: DNS, \
    ports: [{number: 3128, name: tcp, protocol: TCP}]}\n";
const LISTED: &str = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
    metadata: {name: listed}\nspec: {hosts: [listed.example], resolution: STATIC, \
    addresses: [203.0.113.7], endpoints: [{address: 203.0.113.7}], ports: \
    [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}, \
    {number: 81, name: auto}, {number: 5432, name: tcp, protocol: TCP}]}\n";
const REROUTED: &str = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: rerouted}\nspec: {hosts: [listed.example], tcp: [{match: [{port: 5432}], \
    route: [{destination: {host: proxy.example, port: {number: 3128}}}]}]}\n";

fn gate(rules: &[&str]) -> Gate {
    let settings = Settings {
        internal: vec!["10.0.0.0/8".parse().unwrap()],
        ..Settings::default()
    };
    let mut gate = Gate::new(settings, &rules.concat());
    gate.answer("proxy.example", &["198.51.100.7"]);
    gate
}

fn to(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

#[test]
fn what_no_rule_lists_goes_to_the_egress_proxy_and_what_is_listed_goes_its_own_way() {
    let mut gate = gate(&[SIDECAR, PROXY, LISTED]);
    let proxied = || Outcome::To("proxy.example:3128".to_owned());
    let listed = |port| Outcome::To(format!("listed.example:{port}"));
    let (listed_host, other) = (
        Spoken::Http("listed.example"),
        Spoken::Http("other.example"),
    );
    let (listed_name, other_name) = (
        Spoken::Tls(Some("listed.example")),
        Spoken::Tls(Some("other.example")),
    );
    for (address, spoken, expected) in [
        ("192.0.2.1:9999", Spoken::Bytes, proxied()),
        ("192.0.2.1:80", other, proxied()),
        ("192.0.2.1:443", other_name, proxied()),
        ("192.0.2.1:443", Spoken::Tls(None), proxied()),
        ("192.0.2.1:81", Spoken::Bytes, proxied()),
        ("[2001:db8::1]:9999", Spoken::Bytes, proxied()),
        ("[2001:db8::1]:80", other, proxied()),
        ("[fd00::1]:443", other_name, proxied()),
        // An unlisted name at a listed address.
        ("203.0.113.7:80", other, proxied()),
        ("203.0.113.7:443", other_name, proxied()),
        ("203.0.113.7:81", other, proxied()),
        ("203.0.113.7:9", Spoken::Bytes, proxied()),
        ("203.0.113.7:80", listed_host, listed(80)),
        ("203.0.113.7:443", listed_name, listed(443)),
        ("203.0.113.7:81", listed_host, listed(81)),
        ("203.0.113.7:81", Spoken::Bytes, listed(81)),
        ("203.0.113.7:5432", Spoken::Bytes, listed(5432)),
        ("198.51.100.7:3128", Spoken::Bytes, Outcome::Original),
        ("10.1.2.3:9999", Spoken::Bytes, Outcome::Original),
        ("127.0.0.1:9999", Spoken::Bytes, Outcome::Original),
    ] {
        let seen = gate.flow(DEFAULT, to(address), spoken);
        assert_eq!(seen, expected, "{address} {spoken:?}");
    }
    // As in Istio, which takes TCP only.
    let udp = gate.verdict(DEFAULT, to("192.0.2.1:9999"), proto::UDP);
    assert_eq!(udp, Verdict::Allow);
}

#[test]
fn nothing_unlisted_passes_while_the_egress_proxy_is_not_registered() {
    let mut gate = gate(&[SIDECAR, LISTED]);
    let unlisted = [
        ("192.0.2.1:9999", Spoken::Bytes, Outcome::Closed),
        (
            "192.0.2.1:80",
            Spoken::Http("other.example"),
            Outcome::Status(502),
        ),
        ("203.0.113.7:9", Spoken::Bytes, Outcome::Closed),
    ];
    for (address, spoken, expected) in &unlisted {
        let seen = gate.flow(DEFAULT, to(address), *spoken);
        assert_eq!(seen, *expected, "{address} {spoken:?}");
    }
    gate.rules(&objects(&[SIDECAR, LISTED, PROXY].concat()));
    gate.answer("proxy.example", &["198.51.100.7"]);
    for (address, spoken, _) in &unlisted {
        let seen = gate.flow(DEFAULT, to(address), *spoken);
        assert_eq!(
            seen,
            Outcome::To("proxy.example:3128".to_owned()),
            "{address}"
        );
    }
    // Without `egressProxy` they reach what was dialled.
    let any = SIDECAR.replace(
        ", egressProxy: {host: proxy.example, port: {number: 3128}}",
        "",
    );
    gate.rules(&objects(&[&any, LISTED, PROXY].concat()));
    for (address, spoken, _) in &unlisted {
        let seen = gate.flow(DEFAULT, to(address), *spoken);
        assert_eq!(seen, Outcome::Original, "{address} {spoken:?}");
    }
    // And they are denied without the Sidecar.
    gate.rules(&objects(&[LISTED, PROXY].concat()));
    for (address, spoken, _) in &unlisted {
        let seen = gate.flow(DEFAULT, to(address), *spoken);
        assert_eq!(seen, Outcome::Refused, "{address} {spoken:?}");
    }
}

#[test]
fn under_allow_any_a_rule_for_listed_bytes_is_still_carried_out() {
    let any = SIDECAR.replace(
        ", egressProxy: {host: proxy.example, port: {number: 3128}}",
        "",
    );
    for sidecar in [SIDECAR, &any] {
        let mut gate = gate(&[sidecar, PROXY, LISTED, REROUTED]);
        let seen = gate.flow(DEFAULT, to("203.0.113.7:5432"), Spoken::Bytes);
        assert_eq!(
            seen,
            Outcome::To("proxy.example:3128".to_owned()),
            "{sidecar}"
        );
    }
}

#[test]
fn a_running_flow_ends_with_the_egress_proxy_that_it_goes_through() {
    let mut gate = gate(&[SIDECAR, PROXY]);
    let dialled = to("192.0.2.1:9999");
    let routes = gate.state.routes();
    let TcpDecision::Relay(cluster) = routes.tcp(DEFAULT, dialled, 0) else {
        panic!("it is not relayed");
    };
    let present = |gate: &mut Gate| {
        let routes = gate.state.routes();
        let found = routes.present(DEFAULT, dialled, "", None, &cluster);
        assert_eq!(found.is_some(), routes.lists_tcp(DEFAULT, dialled));
        found.is_some()
    };
    assert!(present(&mut gate));
    let elsewhere = PROXY.replace("proxy.example", "elsewhere.example");
    let without_sidecar = PROXY.to_owned();
    let without_proxy = [SIDECAR, &elsewhere].concat();
    for rules in [without_sidecar, without_proxy] {
        gate.rules(&objects(&rules));
        assert!(!present(&mut gate), "{rules}");
        gate.rules(&objects(&[SIDECAR, PROXY].concat()));
        assert!(present(&mut gate));
    }
}
