//! Pods of a real container runtime behind the gate: containerd, runc and CNI.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod api;
mod cri;
mod image;
mod node;

use std::path::Path;
use std::time::Duration;

use egress_tests::lab::{host, v4, v6};
use egress_tests::{Lab, LabOptions, pods, wait_until};
use node::{Node, Pod};

const HTTPBIN: &str = include_str!("../../../examples/httpbin-serviceentry.yaml");
const TIMEOUT: &str = include_str!("../../../examples/httpbin-timeout.yaml");
const GOOGLE: &str = include_str!("../../../examples/google.yaml");

const SOON: Duration = Duration::from_secs(10);

fn get(node: &Node, pod: &Pod, url: &str) -> u16 {
    let answered = || {
        let (code, _, _) = node.curl(pod, &[url]).unwrap();
        (code != 0).then_some(code)
    };
    wait_until("the pod gets an answer", SOON, answered).unwrap()
}

#[test]
fn the_walk_through_the_lab_agrees_inside_a_pod() {
    let lab = Lab::start().unwrap();
    let node = Node::start(&lab).unwrap();
    let trust = (lab.authority().path(), "/ca.pem");
    let pod = node.pod(1, &[], &[trust]).unwrap();
    let curl = |arguments: &[&str]| node.curl(&pod, arguments).unwrap();

    // Nothing is listed: the first step.
    let (_, time, done) = curl(&["http://httpbin.org/headers"]);
    assert!(done.exit == 7 && time < 0.2, "{done:?} {time}");
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    assert_eq!(get(&node, &pod, "http://httpbin.org/headers"), 200);
    let seen = lab.httpbin.requests().pop().unwrap();
    let own = [pod.address.as_str(), "fd00:10:244:1:"];
    let peer = seen.peer.ip().to_string();
    assert!(own.iter().any(|own| peer.starts_with(own)), "{peer}");

    lab.rules("google.yaml", GOOGLE).unwrap();
    let (code, _, done) = curl(&["--cacert", "/ca.pem", "https://www.google.com/"]);
    assert!(code == 200 && done.stdout.contains("<title>Google</title>"), "{done:?}");

    let (code, time, _) = curl(&["http://httpbin.org/delay/5"]);
    assert!(code == 200 && (5.0..5.8).contains(&time), "{code} {time}");
    lab.rules("timeout.yaml", TIMEOUT).unwrap();
    let (code, time, done) = curl(&["http://httpbin.org/delay/5"]);
    assert!(code == 504 && (3.0..3.3).contains(&time), "{code} {time}");
    assert_eq!(done.stdout, "upstream request timeout");

    for address in [v4(host::BYSTANDER), v6(host::BYSTANDER)] {
        let url = match address {
            std::net::IpAddr::V4(v4) => format!("http://{v4}/"),
            std::net::IpAddr::V6(v6) => format!("http://[{v6}]/"),
        };
        let (_, time, done) = curl(&[&url]);
        assert!(done.exit == 7 && time < 0.05, "{done:?} {time}");
    }
    let (code, ..) = curl(&["-H", "Host: bystander.example", "http://httpbin.org/"]);
    assert_eq!(code, 502);
    let wrong = format!("bystander.example:443:{}", v4(host::GOOGLE));
    let arguments = ["--cacert", "/ca.pem", "--resolve", &wrong, "https://bystander.example/"];
    let (code, _, done) = curl(&arguments);
    assert!(code == 0 && done.exit == 35, "{done:?}");
    assert_eq!(lab.bystander.connections(), 0);
    node.cri.remove(&pod.sandbox).unwrap();
}
