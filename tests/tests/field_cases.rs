//! Cases that users reported for Istio's sidecars, as `tests/data/field-cases/README.md` lists them: the
//! rules on the running agent, the client with curl, and `explain` of the same destination.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::hosts::Origin;
use egress_tests::lab::{v4, v6};
use egress_tests::{Lab, LabOptions, wait_until};
use std::net::IpAddr;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// `api.shop.example`: HTTP at 80, 8080 and 9090, TLS at 8443.
const API: u8 = 110;
/// `www.shop.example`: TLS at 443.
const WWW: u8 = 120;

macro_rules! rules {
    ($name:literal) => {
        include_str!(concat!("../data/field-cases/", $name, ".yaml"))
    };
}

fn lab(rules: &str, flags: &[&str]) -> Lab {
    let lab = Lab::start_with(LabOptions::flags(flags)).unwrap();
    lab.dns.set("api.shop.example", &[v4(API), v6(API)], 30);
    lab.dns.set("www.shop.example", &[v4(WWW)], 30);
    lab.rules("case.yaml", rules).unwrap();
    lab
}

fn http(lab: &Lab, addresses: &[IpAddr], ports: &[u16]) -> Origin {
    let origin = lab.world().http(addresses, ports[0]).unwrap();
    for port in &ports[1..] {
        lab.world().http_as(&origin, addresses, *port).unwrap();
    }
    origin
}

fn tls(lab: &Lab, addresses: &[IpAddr], port: u16, names: &[&str]) -> Origin {
    let world = lab.world();
    world
        .https(addresses, port, lab.authority(), names)
        .unwrap()
}

/// The status of a request; 0 if there was none.
fn get(lab: &Lab, arguments: &[&str]) -> u16 {
    lab.curl(&[&["-m", "10"], arguments].concat()).unwrap().code
}

/// Exit code and lines of `explain` with the running agent.
fn explain(lab: &Lab, arguments: &[&str]) -> (i32, String) {
    let socket = lab.admin_socket().display().to_string();
    let verb = [&["explain", "--admin-socket", &socket], arguments].concat();
    let told = lab.verb(&verb).unwrap();
    (told.exit, told.stdout)
}

/// Exit code and lines of `check`, and of `check --strict`.
fn check(lab: &Lab) -> (i32, i32, String) {
    let folder = lab.rules_dir().display().to_string();
    let plain = lab.verb(&["check", &folder]).unwrap();
    let strict = lab.verb(&["check", "--strict", &folder]).unwrap();
    (plain.exit, strict.exit, plain.stdout)
}

#[test]
fn a_listed_address_is_a_host_of_its_own() {
    let mut lab = lab(rules!("vip-host-is-ip"), &[]);
    let origin = http(&lab, &[v4(169), v6(169)], &[80]);
    lab.dns.set("metadata.shop.example", &[v4(169)], 30);
    let url = "http://198.51.100.169/computeMetadata/v1/";
    let ported = ["-H", "Host: 198.51.100.169:80", "http://198.51.100.169/"];
    assert_eq!(get(&lab, &["http://metadata.shop.example/get"]), 200);
    for arguments in [&["http://198.51.100.169/get"][..], &ported] {
        assert_ne!(get(&lab, arguments), 502, "{arguments:?}");
    }
    assert!(origin.connections() > 0);
    assert_eq!(explain(&lab, &[url]).0, 0);
    // An address other than the dialled one is another Host.
    assert_eq!(get(&lab, &["-H", "Host: 198.51.100.170", url]), 502);
    assert_eq!(explain(&lab, &["-H", "Host: 198.51.100.170", url]).0, 1);
    let v6_rules = rules!("vip-host-is-ip")
        .replace("198.51.100.169/32", "\"2001:db8:2::169\"")
        .replace("address: 198.51.100.169", "address: \"2001:db8:2::169\"");
    lab.rules("case.yaml", &v6_rules).unwrap();
    let url = "http://[2001:db8:2::169]/get";
    assert_eq!(get(&lab, &[url]), 200);
    assert_eq!(explain(&lab, &[url]).0, 0);
    assert!(lab.agent().unwrap().is_running());
}

#[test]
fn tls_to_a_listed_single_address_needs_no_server_name() {
    let lab = lab(rules!("https-vip-no-sni"), &[]);
    let addresses = [v4(36), v4(37), v4(38)];
    let kubelet = tls(&lab, &addresses, 10250, &["kubelet.local"]);
    for (address, passes) in [
        ("198.51.100.36", true),
        ("198.51.100.37", true),
        ("198.51.100.38", false),
    ] {
        let url = format!("https://{address}:10250/get");
        let code = get(&lab, &["-k", &url]);
        assert_eq!(code == 200, passes, "{url}: {code}");
        assert_eq!(explain(&lab, &[&url]).0, i32::from(!passes), "{url}");
    }
    assert!(kubelet.handshakes() > 0);
    // A network needs the server name, as in Istio.
    let network = rules!("https-vip-no-sni")
        .replace("[198.51.100.36/32, 198.51.100.37/32]", "[198.51.100.36/31]");
    lab.rules("case.yaml", &network).unwrap();
    let url = "https://198.51.100.36:10250/get";
    assert_eq!(get(&lab, &["-k", url]), 0);
    let (exit, told) = explain(&lab, &[url]);
    assert!(exit == 1 && told.contains("no server name"), "{told}");
    let named = [
        "-k",
        "--resolve",
        "kubelet.local:10250:198.51.100.36",
        "https://kubelet.local:10250/get",
    ];
    assert_eq!(get(&lab, &named), 200);
}

/// The request is denied, does not reach the origin, and check, explain and the log give the reason.
#[track_caller]
#[test]
fn a_route_that_aborts_lets_nothing_through() {
    let lab = lab(rules!("fault-default-deny"), &[]);
    let origin = http(&lab, &[v4(API), v6(API)], &[80]);
    let url = "http://api.shop.example/get";
    assert_eq!(get(&lab, &["-u", "test:pass", url]), 200);
    let credential = ["-H", "Authorization: Basic dGVzdDpwYXNz", url];
    assert_eq!(explain(&lab, &credential).0, 0);
    let before = origin.connections();
    let aborted = lab.curl(&["-m", "10", url]).unwrap();
    assert_eq!((aborted.code, &*aborted.body), (403, "fault filter abort"));
    assert_eq!(origin.connections(), before);
}

#[test]
fn headers_that_must_not_leave_do_not_leave() {
    let lab = lab(rules!("header-strip"), &[]);
    let origin = http(&lab, &[v4(API), v6(API)], &[80]);
    let token = "x-internal-token: abc";
    assert_eq!(
        get(&lab, &["-H", token, "http://api.shop.example/get"]),
        200
    );
    let seen = origin.last_request().unwrap();
    assert_eq!(seen.header("x-client"), Some("gateway"));
    for gone in ["x-internal-token", "x-envoy-decorator-operation"] {
        assert_eq!(seen.header(gone), None, "{seen:?}");
    }
}

#[test]
fn a_request_leaves_with_the_path_and_the_host_of_its_rewrite() {
    let lab = lab(rules!("rewrite-alias"), &[]);
    lab.dns.set("shortname.alias", &[v4(API)], 30);
    let origin = http(&lab, &[v4(API), v6(API)], &[80]);
    for url in [
        "http://shortname.alias/v1/get",
        "http://shortname.alias/get",
    ] {
        assert_eq!(get(&lab, &[url]), 200);
        let seen = origin.last_request().unwrap();
        assert_eq!(seen.target, "/get");
        assert_eq!(seen.header("host"), Some("api.shop.example"));
    }
}

#[test]
fn what_should_leave_as_tls_does_not_leave_in_clear_text() {
    let lab = lab(rules!("tls-origination"), &[]);
    let www = tls(&lab, &[v4(WWW)], 443, &["www.shop.example"]);
    assert_eq!(get(&lab, &["https://www.shop.example/get"]), 200);
    let url = "http://www.shop.example/get";
    let token = ["-H", "Authorization: Bearer s3cret-token", url];
    // The lab's authority is not one of the system's.
    assert_eq!(get(&lab, &token), 503);
    assert_eq!(www.requests().len(), 1);
    let authority = lab.authority().path().display().to_string();
    let file = format!("mode: SIMPLE, caCertificates: {authority}");
    let own = rules!("tls-origination").replace("mode: SIMPLE", &file);
    lab.rules("case.yaml", &own).unwrap();
    assert_eq!(get(&lab, &token), 200);
    assert_eq!(
        www.handshakes(),
        www.connections() - 3,
        "three tries failed, and none was clear text"
    );
    let seen = www.last_request().unwrap();
    assert_eq!(seen.header("authorization"), Some("Bearer s3cret-token"));
    let (exit, told) = explain(&lab, &[url]);
    assert!(exit == 0 && told.contains("over TLS"), "{told}");
    assert_eq!(check(&lab).1, 0);
}

#[test]
fn http2_without_tls_reaches_the_host() {
    let lab = lab(rules!("grpc-h2c"), &[]);
    let _origin = http(&lab, &[v4(API), v6(API)], &[8080, 9090]);
    tls(&lab, &[v4(API), v6(API)], 8443, &["api.shop.example"]);
    for port in [8080, 9090] {
        let url = format!("http://api.shop.example:{port}/get");
        assert_eq!(get(&lab, &["--http2-prior-knowledge", &url]), 200, "{url}");
        let destination = format!("api.shop.example:{port}");
        let (exit, told) = explain(&lab, &[&destination]);
        assert!(exit == 0 && told.contains("HTTP/2"), "{told}");
    }
    assert_eq!(get(&lab, &["https://api.shop.example:8443/get"]), 200);
}

#[test]
fn failures_of_a_listed_kind_are_tried_again_and_each_attempt_has_its_time() {
    let lab = lab(rules!("retries"), &[]);
    let origin = http(&lab, &[v4(API), v6(API)], &[80]);
    assert_eq!(get(&lab, &["http://api.shop.example/flaky/2"]), 200);
    let attempts: Vec<_> = origin
        .requests()
        .iter()
        .map(|request| request.header("x-envoy-attempt-count").map(str::to_owned))
        .collect();
    assert_eq!(attempts, ["1", "2", "3"].map(|n| Some(n.to_owned())));
    // Each attempt takes longer than a second.
    let before = origin.requests().len();
    assert_eq!(get(&lab, &["http://api.shop.example/delay/3"]), 504);
    let requests = origin.requests();
    assert_eq!(requests.len() - before, 6);
    let expected = requests[before].header("x-envoy-expected-rq-timeout-ms");
    assert_eq!(expected, Some("1000"));
    let (exit, strict, told) = check(&lab);
    assert!(exit == 0 && strict == 0, "{told}");
    let (exit, told) = explain(&lab, &["http://api.shop.example/get"]);
    let settings = "timeout 10s, 5 retries on 5xx,reset, 1s each";
    assert!(exit == 0 && told.contains(settings), "{told}");
}

#[test]
fn a_denial_of_an_address_that_dns_gave_another_time_names_the_setting() {
    let rules = rules!("dns-rotating");
    let url = "https://s3.shop.example/get";
    let resolve = |last: u8| format!("s3.shop.example:443:198.51.100.{last}");
    for (flags, passes) in [(&[][..], false), (&["--unlisted-address", "byName"], true)] {
        let flags = [&["--dns-min-ttl", "1s"], flags].concat();
        let lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
        for name in ["s3.shop.example", "cdn.shop.example", "rr.shop.example"] {
            lab.dns.set(name, &[v4(121)], 1);
        }
        let addresses = [v4(121), v4(122), v4(123)];
        tls(&lab, &addresses, 443, &["s3.shop.example"]);
        let mut lab = lab;
        lab.rules("case.yaml", rules).unwrap();
        assert_eq!(get(&lab, &["--resolve", &resolve(121), url]), 200);
        lab.dns.set("s3.shop.example", &[v4(122)], 1);
        let second = || (get(&lab, &["--resolve", &resolve(122), url]) == 200).then_some(());
        wait_until("the second answer is taken", SOON, second).unwrap();
        let mark = lab.agent().unwrap().mark();
        let third = lab.curl(&["--resolve", &resolve(123), url]).unwrap();
        if passes {
            assert_eq!(third.code, 200);
            continue;
        }
        assert!(third.refused(), "{third:?}");
        let named = || {
            let log = lab.agent().unwrap().log_since(mark);
            let denied = |line: &&String| line.contains("198.51.100.123");
            let line = log.iter().find(denied)?;
            line.contains("unlistedAddress").then_some(())
        };
        wait_until("the denial names the setting", SOON, named).unwrap();
    }
}

#[test]
fn a_denial_of_a_private_address_names_the_setting() {
    let flags = LabOptions::flags(&["--allow-private-answers=false"]);
    let mut lab = match Lab::start_with(flags) {
        Ok(lab) => lab,
        Err(error) => panic!("{error:#}"),
    };
    let name = "host.minikube.internal";
    lab.dns.set(name, &["192.168.65.254".parse().unwrap()], 30);
    lab.rules("case.yaml", rules!("private-answer")).unwrap();
    let mark = lab.agent().unwrap().mark();
    let answer = lab.attempt("tcp", "192.168.65.254:5432".parse().unwrap());
    assert!(answer.unwrap().denied());
    let named = || {
        let log = lab.agent().unwrap().log_since(mark);
        let denied =
            |line: &&String| line.contains("denied") && line.contains("192.168.65.254:5432");
        log.iter()
            .find(denied)?
            .contains("allowPrivateAnswers")
            .then_some(())
    };
    wait_until("the denial names the setting", SOON, named).unwrap();
    let (exit, told) = explain(&lab, &["host.minikube.internal:5432"]);
    assert!(exit == 1 && told.contains("allowPrivateAnswers"), "{told}");
}

#[test]
fn explain_names_the_entry_that_is_not_in_force_and_a_port_without_a_resolution() {
    let mut lab = lab(rules!("lint-at-load"), &[]);
    let (exit, told) = explain(&lab, &["https://www.shop.example/"]);
    assert!(exit == 1 && told.contains("default/cloud-https"), "{told}");
    assert!(told.contains("not in force"), "{told}");
    // Without a resolution the port would be open to any address. It serves nothing, which is reported.
    let (exit, told) = explain(&lab, &["git.shop.example:22"]);
    assert!(exit == 1 && told.contains("default/ssh"), "{told}");
    assert!(told.contains("resolution is not spelt out"), "{told}");
    let mark = lab.agent().unwrap().mark();
    for target in ["198.51.100.99:22", "[2001:db8:2::99]:22"] {
        let answer = lab.attempt("tcp", target.parse().unwrap()).unwrap();
        assert!(answer.denied(), "{target}");
        let said = || {
            let log = lab.agent().unwrap().log_since(mark);
            let denied = |line: &&String| line.contains("denied") && line.contains(target);
            let line = log.iter().find(denied)?;
            line.contains("resolution is not spelt out").then_some(())
        };
        wait_until("the denial says why", SOON, said).unwrap();
    }
    // With an explicit resolution it is open to any address, and explain names the rule.
    let spelt = format!("{}  resolution: NONE\n", rules!("lint-at-load"));
    lab.rules("case.yaml", &spelt).unwrap();
    let open = || (explain(&lab, &["other.shop.example:22"]).0 == 0).then_some(());
    wait_until("the port is open", SOON, open).unwrap();
    let (_, told) = explain(&lab, &["other.shop.example:22"]);
    assert!(told.contains("default/ssh"), "{told}");
}
