//! An address that belongs to no listed host, on a port whose name is checked.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::lab::{host, v4, v6};
use egress_tests::{Lab, LabOptions};

const HTTPBIN: &str = include_str!("../../examples/httpbin-serviceentry.yaml");
const GOOGLE: &str = include_str!("../../examples/google.yaml");

fn lab(flags: &[&str]) -> Lab {
    let lab = Lab::start_with(LabOptions::flags(flags)).unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    lab.rules("google.yaml", GOOGLE).unwrap();
    lab
}

/// Requests for these hosts at the bystander's address, over IPv4 and over IPv6.
fn at_the_bystander(lab: &Lab, url: &str, host_and_port: &str) -> Vec<egress_tests::Reply> {
    let address = [
        v4(host::BYSTANDER).to_string(),
        format!("[{}]", v6(host::BYSTANDER)),
    ];
    let ask = |ip| {
        let resolve = format!("{host_and_port}:{ip}");
        lab.curl(&["--resolve", &resolve, url]).unwrap()
    };
    address.into_iter().map(ask).collect()
}

#[test]
fn it_is_refused_by_the_kernel() {
    let lab = lab(&[]);
    for reply in at_the_bystander(&lab, "http://httpbin.org/get", "httpbin.org:80") {
        assert!(reply.refused(), "{reply:?}");
    }
}

#[test]
fn with_by_name_a_listed_name_is_served_by_its_own_host_and_another_is_not_served() {
    let lab = lab(&["--unlisted-address", "byName"]);
    for reply in at_the_bystander(&lab, "http://httpbin.org/get", "httpbin.org:80") {
        assert_eq!(reply.code, 200, "{reply:?}");
    }
    assert_eq!(lab.httpbin.requests().len(), 2);
    for reply in at_the_bystander(&lab, "https://www.google.com/", "www.google.com:443") {
        assert_eq!(reply.code, 200, "{reply:?}");
    }
    for reply in at_the_bystander(&lab, "http://other.example/", "other.example:80") {
        assert_eq!(reply.code, 502, "{reply:?}");
    }
    for reply in at_the_bystander(&lab, "https://bystander.example/", "bystander.example:443") {
        assert_eq!(reply.code, 0, "{reply:?}");
    }
    assert!(lab.bystander.requests().is_empty(), "nothing reached it");
}
