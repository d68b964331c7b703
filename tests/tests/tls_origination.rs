//! TLS that rules ask for, on the real gate: YAML in, TLS out. The handshakes themselves are tested in the agent's
//! `tests/proxy`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use egress_tests::lab::{v4, v6};
use egress_tests::{Lab, LabOptions};

const WWW: u8 = 120;

fn lab(flags: &[&str]) -> Lab {
    let lab = Lab::start_with(LabOptions::flags(flags)).unwrap();
    lab.dns.set("www.shop.example", &[v4(WWW), v6(WWW)], 30);
    lab
}

fn code(lab: &Lab, arguments: &[&str]) -> u16 {
    lab.curl(&[&["-m", "10"], arguments].concat()).unwrap().code
}

/// A `ServiceEntry` for `www.shop.example` and a `DestinationRule` with these settings of `tls`.
fn rules(ports: &str, resolution: &str, tls: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: www}}
spec: {{hosts: [www.shop.example], resolution: {resolution}, ports: [{ports}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: www}}
spec: {{host: www.shop.example, trafficPolicy: {{tls: {{{tls}}}}}}}
"
    )
}

const HTTP: &str = "{number: 80, name: http, protocol: HTTP, targetPort: 443}";

#[test]
fn requests_of_both_families_and_resolutions_leave_as_tls() {
    let lab = lab(&[]);
    let names = ["www.shop.example"];
    let origin = lab
        .world()
        .https(&[v4(WWW), v6(WWW)], 443, lab.authority(), &names)
        .unwrap();
    let authority = lab.authority().path().display().to_string();
    let simple = format!("mode: SIMPLE, caCertificates: {authority}");
    let url = "http://www.shop.example/get";
    for resolution in ["DNS", "NONE"] {
        lab.rules("www.yaml", &rules(HTTP, resolution, &simple))
            .unwrap();
        for family in ["-4", "-6"] {
            assert_eq!(code(&lab, &[family, url]), 200, "{resolution} {family}");
        }
    }
    assert_eq!(origin.handshakes(), origin.connections());
    // The route's port decides: the VirtualService leads to a port with TLS settings.
    let ports =
        "{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: HTTPS}";
    let port_level = rules(ports, "DNS", &simple).replace(
        "trafficPolicy: {tls: ",
        "trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: ",
    );
    let port_level = port_level.replace("}}}\n", "}}]}}\n");
    let route = "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: www}
spec: {hosts: [www.shop.example], http: [{route: [{destination: {host: www.shop.example, port: {number: 443}}}]}]}
";
    let before = origin.requests().len();
    lab.rules("www.yaml", &(port_level + route)).unwrap();
    assert_eq!(code(&lab, &[url]), 200);
    assert_eq!(origin.requests().len(), before + 1);
    assert_eq!(origin.handshakes(), origin.connections());
}

#[test]
fn bytes_of_a_tcp_port_leave_as_tls_although_the_kernel_could_let_them_pass() {
    let lab = lab(&[]);
    let names = ["www.shop.example"];
    let origin = lab
        .world()
        .https(&[v4(WWW), v6(WWW)], 8443, lab.authority(), &names)
        .unwrap();
    let authority = lab.authority().path().display().to_string();
    let tcp = "{number: 8443, name: tcp, protocol: TCP}";
    let with = |more: &str| {
        rules(
            tcp,
            "DNS",
            &format!("mode: SIMPLE, caCertificates: {authority}{more}"),
        )
    };
    let url = "http://www.shop.example:8443/get";
    for (more, passes) in [
        (
            ", sni: www.shop.example, subjectAltNames: [www.shop.example]",
            true,
        ),
        ("", true),
        (", subjectAltNames: [other.example]", false),
    ] {
        lab.rules("www.yaml", &with(more)).unwrap();
        for family in ["-4", "-6"] {
            assert_eq!(code(&lab, &[family, url]) == 200, passes, "{more}");
        }
    }
    assert_eq!(origin.requests().len(), 4);
}

#[test]
fn a_client_certificate_is_presented_only_from_a_folder_that_the_config_lists() {
    let certificates = tempfile::tempdir().unwrap();
    let folder = certificates.path().display().to_string();
    for listed in [false, true] {
        let flags = ["--client-certificates", &folder];
        let mut lab = lab(if listed { &flags } else { &[] });
        let names = ["www.shop.example"];
        let origin = lab
            .world()
            .https_mutual(&[v4(WWW), v6(WWW)], 443, lab.authority(), &names)
            .unwrap();
        let (chain, key) = lab.authority().client().unwrap();
        std::fs::write(certificates.path().join("tls.crt"), chain).unwrap();
        std::fs::write(certificates.path().join("tls.key"), key).unwrap();
        let authority = lab.authority().path().display().to_string();
        let mutual = format!(
            "mode: MUTUAL, caCertificates: {authority}, clientCertificate: {folder}/tls.crt, \
             privateKey: {folder}/tls.key"
        );
        lab.rules("www.yaml", &rules(HTTP, "DNS", &mutual)).unwrap();
        let mark = lab.agent().unwrap().mark();
        let url = "http://www.shop.example/get";
        assert_eq!(code(&lab, &[url]), if listed { 200 } else { 503 });
        assert_eq!(origin.handshakes() > 0, listed);
        if !listed {
            let said = || {
                let log = lab.agent().unwrap().log_since(mark);
                let line = |line: &String| {
                    line.contains("client-tls") && line.contains("clientCertificates")
                };
                log.iter().any(line).then_some(())
            };
            egress_tests::wait_until("the log says why", std::time::Duration::from_secs(10), said)
                .unwrap();
        }
    }
}
