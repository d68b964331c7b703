//! A Sidecar's `egressProxy`: what no rule lists reaches it instead of its own destination.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::hosts::Origin;
use egress_tests::lab::{host, v4, v6};
use egress_tests::rules::HTTPBIN;
use egress_tests::{Lab, Reply};
use std::net::SocketAddr;

const PROXY: u8 = 160;
const PORT: u16 = 3128;

const SIDECAR: &str = "apiVersion: networking.istio.io/v1\nkind: Sidecar\n\
    metadata: {name: default, namespace: istio-system}\nspec:\n  outboundTrafficPolicy: \
    {mode: ALLOW_ANY, egressProxy: {host: proxy.example, port: {number: 3128}}}\n";

fn lab() -> (Lab, Origin) {
    let lab = Lab::start().unwrap();
    let proxy = lab.world().http(&[v4(PROXY), v6(PROXY)], PORT).unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    (lab, proxy)
}

fn entry() -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: proxy}}\nspec:\n  \
         hosts: [proxy.example]\n  resolution: STATIC\n  ports: [{{number: {PORT}, name: tcp, protocol: TCP}}]\n  \
         endpoints: [{{address: {}}}, {{address: '{}'}}]\n",
        v4(PROXY),
        v6(PROXY)
    )
}

/// Requests for an unlisted host to the bystander, over IPv4 and IPv6, at a port of a listed host and at another.
fn unlisted(lab: &Lab) -> Vec<Reply> {
    let addresses = [v4(host::BYSTANDER), v6(host::BYSTANDER)];
    let ask = |(ip, port)| {
        let resolve = format!("other.example:{port}:{ip}");
        let url = format!("http://other.example:{port}/get");
        lab.curl(&["--resolve", &resolve, &url]).unwrap()
    };
    let all = addresses.into_iter().flat_map(|ip| [(ip, 80), (ip, 9999)]);
    all.map(ask).collect()
}

#[test]
fn unlisted_tcp_reaches_the_egress_proxy_and_nothing_else() {
    let (lab, proxy) = lab();
    for reply in unlisted(&lab) {
        assert!(reply.refused(), "{reply:?}");
    }
    lab.rules("proxy.yaml", &entry()).unwrap();
    lab.rules("sidecar.yaml", SIDECAR).unwrap();
    for reply in unlisted(&lab) {
        assert_eq!(reply.code, 200, "{reply:?}");
    }
    let hosts: Vec<_> = proxy
        .requests()
        .iter()
        .map(|seen| seen.header("host").unwrap().to_owned())
        .collect();
    let named = ["other.example", "other.example:9999"];
    assert_eq!(hosts, [named, named].concat());
    assert!(lab.bystander.requests().is_empty());

    // A listed host is reached as before.
    let resolve = format!("httpbin.org:80:{}", v4(host::HTTPBIN));
    let reply = lab
        .curl(&["--resolve", &resolve, "http://httpbin.org/get"])
        .unwrap();
    assert_eq!(reply.code, 200, "{reply:?}");
    assert_eq!(lab.httpbin.requests().len(), 1);
    assert_eq!(proxy.requests().len(), 4);

    // The mode is ALLOW_ANY, and Istio sends TCP only to the proxy.
    let echo = SocketAddr::new(v4(host::ECHO), 7);
    let answer = lab.attempt("udp", echo).unwrap();
    assert!(answer.passed(), "{answer:?}");

    let socket = lab.admin_socket().display().to_string();
    let asked = format!("{}:9999", v4(host::BYSTANDER));
    let said = lab
        .verb(&["explain", &asked, "--admin-socket", &socket])
        .unwrap()
        .stdout;
    assert!(said.contains("relayed to proxy.example:3128"), "{said}");
    assert!(said.contains("egressProxy"), "{said}");
}

#[test]
fn without_its_service_entry_nothing_unlisted_leaves() {
    let (lab, proxy) = lab();
    lab.rules("proxy.yaml", &entry()).unwrap();
    lab.rules("sidecar.yaml", SIDECAR).unwrap();
    for reply in unlisted(&lab) {
        assert_eq!(reply.code, 200, "{reply:?}");
    }
    lab.remove_rules("proxy.yaml").unwrap();
    for reply in unlisted(&lab) {
        assert!(reply.code == 0 || reply.code == 502, "{reply:?}");
    }
    assert_eq!(proxy.requests().len(), 4);
    assert!(lab.bystander.requests().is_empty());
}
