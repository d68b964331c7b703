//! `mirror` of a `VirtualService` on the real gate: YAML in, copies out to what the rules list and to nothing else.
//! What a copy is like is tested in the agent's `tests/proxy` and `tests/parity`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use egress_tests::hosts::Origin;
use egress_tests::lab::{v4, v6};
use egress_tests::{Lab, LabOptions, wait_until};
use std::time::Duration;

const WWW: u8 = 121;
const SHADOW: u8 = 122;
const LONG: Duration = Duration::from_secs(10);

fn entry(name: &str, host: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec: {{hosts: [{host}], resolution: DNS, ports: [{{number: 80, name: http, protocol: HTTP}}]}}
"
    )
}

fn rules(shadow: bool, mirror: &str) -> String {
    let www = entry("www", "www.shop.example");
    let shadow = if shadow {
        entry("shadow", "shadow.shop.example")
    } else {
        String::new()
    };
    format!(
        "{www}{shadow}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: www}}
spec:
  hosts: [www.shop.example]
  http:
  - {mirror}
    route: [{{destination: {{host: www.shop.example}}}}]
"
    )
}

const ALL: &str = "mirror: {host: shadow.shop.example}";
const NONE: &str = "mirror: {host: shadow.shop.example}
    mirrorPercentage: {value: 0}";

fn until(what: &str, mut is: impl FnMut() -> bool) {
    wait_until(what, LONG, || is().then_some(())).unwrap();
}

fn copies(lab: &Lab, key: &str) -> u64 {
    lab.status().unwrap()["proxy"][key].as_u64().unwrap()
}

#[test]
fn copies_go_to_a_listed_mirror_only_and_end_with_its_rule() {
    let mut lab = Lab::start_with(LabOptions::default()).unwrap();
    lab.dns.set("www.shop.example", &[v4(WWW), v6(WWW)], 30);
    lab.dns
        .set("shadow.shop.example", &[v4(SHADOW), v6(SHADOW)], 30);
    let www = lab.world().http(&[v4(WWW), v6(WWW)], 80).unwrap();
    let shadow = lab.world().http(&[v4(SHADOW), v6(SHADOW)], 80).unwrap();
    let url = "http://www.shop.example/get?x=1";
    let ask = |lab: &Lab, more: &[&str]| {
        let reply = lab.curl(&[&["-m", "10", url], more].concat()).unwrap();
        assert_eq!(reply.code, 200, "{more:?}");
    };

    lab.rules("mirror.yaml", &rules(true, ALL)).unwrap();
    for (number, more) in [&["-4"][..], &["-6"], &["-4", "-d", "hello"]]
        .iter()
        .enumerate()
    {
        ask(&lab, more);
        until("the copy", || shadow.requests().len() == number + 1);
        let copy = shadow.last_request().unwrap();
        assert_eq!(copy.target, "/get?x=1");
        assert_eq!(copy.header("host"), Some("www.shop.example-shadow"));
        assert_eq!(copy.header("x-envoy-internal"), Some("true"));
        let same = |origin: &Origin| {
            origin
                .last_request()
                .unwrap()
                .header("x-request-id")
                .map(str::to_owned)
        };
        assert_eq!(same(&shadow), same(&www));
    }
    until("they are counted", || copies(&lab, "copiesAnswered") == 3);
    let socket = lab.admin_socket().display().to_string();
    let explained = lab
        .verb(&["explain", "--admin-socket", &socket, url])
        .unwrap();
    let text = explained.stdout;
    assert!(
        text.contains("100 % of requests copied to shadow.shop.example:80"),
        "{text}"
    );

    lab.rules("mirror.yaml", &rules(true, NONE)).unwrap();
    ask(&lab, &[]);

    // The mirror is no longer listed: the request passes, the copy does not, and the log says why.
    lab.rules("mirror.yaml", &rules(false, ALL)).unwrap();
    let mark = lab.agent().unwrap().mark();
    // A copy that is denied while the rules change may have another reason.
    until("the log says why", || {
        ask(&lab, &[]);
        let log = lab.agent().unwrap().log_since(mark);
        log.iter().any(|line| {
            line.contains("reason=\"mirror\"")
                && line.contains("shadow.shop.example, which is not registered")
        })
    });
    assert!(copies(&lab, "copiesDenied") > 0);
    assert_eq!(shadow.requests().len(), 3);

    // And it gets copies again with its rule.
    lab.rules("mirror.yaml", &rules(true, ALL)).unwrap();
    ask(&lab, &[]);
    until("the copy", || shadow.requests().len() == 4);
}
