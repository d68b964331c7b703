//! Pods of a real container runtime behind the gate: containerd, runc and CNI.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod api;
mod churn;
mod cri;
mod daemonset;
mod identity;
mod image;
mod node;
mod own_rules;

use egress_tests::lab::{host, v4, v6};
use egress_tests::pods;
use egress_tests::rules::{ECHO, GOOGLE, HTTPBIN, TIMEOUT};
use egress_tests::upgrade::upgrade;
use egress_tests::{Lab, LabOptions, wait_until};
use node::{Node, Pod};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

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
    let seen = lab.httpbin.last_request().unwrap();
    assert!([pod.v4, pod.v6].contains(&seen.peer.ip()), "{seen:?}");

    lab.rules("google.yaml", GOOGLE).unwrap();
    let (code, _, done) = curl(&["--cacert", "/ca.pem", "https://www.google.com/"]);
    assert!(
        code == 200 && done.stdout.contains("<title>Google</title>"),
        "{done:?}"
    );

    let (code, time, _) = curl(&["http://httpbin.org/delay/5"]);
    assert!(code == 200 && (5.0..5.8).contains(&time), "{code} {time}");
    lab.rules("timeout.yaml", TIMEOUT).unwrap();
    let (code, time, done) = curl(&["http://httpbin.org/delay/5"]);
    assert!(code == 504 && (3.0..3.3).contains(&time), "{code} {time}");
    assert_eq!(done.stdout, "upstream request timeout");

    for address in [v4(host::BYSTANDER), v6(host::BYSTANDER)] {
        let url = match address {
            IpAddr::V4(v4) => format!("http://{v4}/"),
            IpAddr::V6(v6) => format!("http://[{v6}]/"),
        };
        let (_, time, done) = curl(&[&url]);
        assert!(done.exit == 7 && time < 0.05, "{done:?} {time}");
    }
    let (code, ..) = curl(&["-H", "Host: bystander.example", "http://httpbin.org/"]);
    assert_eq!(code, 502);
    let wrong = format!("bystander.example:443:{}", v4(host::GOOGLE));
    let arguments = [
        "--cacert",
        "/ca.pem",
        "--resolve",
        &wrong,
        "https://bystander.example/",
    ];
    let (code, _, done) = curl(&arguments);
    assert!(code == 0 && done.exit == 35, "{done:?}");
    assert_eq!(lab.bystander.connections(), 0);
    node.cri.remove(&pod.sandbox).unwrap();
}

#[test]
fn an_entrypoint_that_connects_is_under_its_rules_from_its_first_instruction() {
    let lab = Lab::start_with(pods::in_namespaces(&[(1, "shop"), (2, "blog")])).unwrap();
    let shop_only = HTTPBIN.replace(
        "  name: httpbin-ext",
        "  name: httpbin-ext\n  namespace: shop",
    );
    let shop_only = shop_only.replace("spec:", "spec:\n  exportTo: ['.']");
    lab.rules("httpbin.yaml", &shop_only).unwrap();
    let node = Node::start(&lab).unwrap();
    let address = format!("httpbin.org:80:{}", v4(host::HTTPBIN));
    // Tries twice at most; the exit code is the number of tries that were denied.
    let script = format!(
        "n=0; until curl -qsS --resolve {address} http://httpbin.org/get; do n=$((n+1)); [ $n = 2 ] && break; done; exit $n"
    );
    let ended = |number: u16| {
        let pod = node.pod(number, &["sh", "-c", &script], &[]).unwrap();
        let exit = wait_until("the entrypoint ends", SOON, || {
            let status = node.cri.container(&pod.container).unwrap();
            (status.state == api::EXITED).then_some(status.exit_code)
        })
        .unwrap();
        node.cri.remove(&pod.sandbox).unwrap();
        exit
    };
    assert!(ended(1) <= 1, "listed for the first pod's namespace");
    assert_eq!(lab.httpbin.requests().len(), 1);
    for number in [2, 3] {
        assert_eq!(ended(number), 2, "not listed for pod {number}");
    }
    assert_eq!(
        lab.httpbin.connections(),
        1,
        "only the listed pod came through"
    );
}

/// Ends the loops in a pod's container, also when a test fails: its threads wait for them.
struct Over<'a>(&'a Node, &'a Pod);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let command = ["sh", "-c", ": > /over"];
        if let Err(e) = self.0.cri.exec(&self.1.container, &command) {
            eprintln!("the loops in the container do not end: {e:#}");
        }
    }
}

#[test]
fn an_agent_killed_restarted_and_upgraded_lets_nothing_through_and_cuts_no_direct_flow() {
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    lab.rules("echo.yaml", ECHO).unwrap();
    let node = Node::start(&lab).unwrap();
    let pod = node.pod(1, &[], &[]).unwrap();
    assert_eq!(get(&node, &pod, "http://httpbin.org/get"), 200);
    let both = |way: &str, last: u8, port: u16| {
        let of = |ip| format!("probe {way} {}", SocketAddr::new(ip, port));
        format!("{}; {}", of(v4(last)), of(v6(last)))
    };
    let exec = |script: &str| {
        let command = ["sh", "-c", script];
        node.cri.exec(&pod.container, &command).unwrap()
    };
    let until_told = |body: &str| exec(&format!("until [ -e /over ]; do {body}; done"));
    let word = "echo $n; n=$((n+1)); sleep 0.05";
    let echo = SocketAddr::new(v4(host::ECHO), 7);
    let words =
        format!("n=0; (until [ -e /over ]; do {word}; done; echo over) | probe hold {echo}");
    std::thread::scope(|scope| {
        let unlisted = scope.spawn(|| until_told(&both("tcp", host::BYSTANDER, 80)));
        let direct = scope.spawn(|| until_told(&both("tcp-echo", host::ECHO, 7)));
        let words = scope.spawn(|| exec(&words));
        let over = Over(&node, &pod);
        let served = || assert_eq!(get(&node, &pod, "http://httpbin.org/get"), 200);
        for _ in 0..2 {
            lab.agent().unwrap().kill().unwrap();
            lab.start_agent().unwrap();
            served();
            lab.agent().unwrap().terminate().unwrap();
            lab.start_agent().unwrap();
            served();
            upgrade(&mut lab).unwrap();
            served();
        }
        drop(over);
        for (tries, expected) in [(unlisted, "\"errno\":1,"), (direct, "\"errno\":null,")] {
            let tries = tries.join().unwrap();
            let lines = tries.stdout.lines();
            let others: Vec<&str> = lines.clone().filter(|l| !l.contains(expected)).collect();
            assert!(others.is_empty() && lines.count() > 100, "{others:?}");
        }
        let words = words.join().unwrap();
        // The last line is the probe's own.
        let heard: Vec<&str> = words.stdout.lines().collect();
        let heard = &heard[..heard.len() - 1];
        let numbers = (0..heard.len() - 2).map(|n| n.to_string());
        let said = ["up".to_owned()].into_iter().chain(numbers);
        let said: Vec<String> = said.chain(["over".to_owned()]).collect();
        assert_eq!(heard, said, "{}", words.stderr);
    });
    assert_eq!(lab.bystander.connections(), 0);
}

#[test]
fn the_daemonset_governs_pods_with_the_capabilities_that_it_names() {
    let lab = Lab::without_agent(LabOptions::default()).unwrap();
    lab.write_rules("httpbin.yaml", HTTPBIN).unwrap();
    let node = Node::start(&lab).unwrap();
    let agent = daemonset::deploy(&lab, &node, 100).unwrap();
    let probe = daemonset::readiness().unwrap();
    let probe: Vec<&str> = probe.iter().map(String::as_str).collect();
    wait_until("the agent is ready", Duration::from_secs(30), || {
        let done = node.cri.exec(&agent.pod.container, &probe).ok()?;
        (done.exit == 0).then_some(())
    })
    .unwrap_or_else(|e| panic!("{e}\n{}", node.output(100)));
    let pod = node.pod(1, &[], &[]).unwrap();
    assert_eq!(get(&node, &pod, "http://httpbin.org/get"), 200);
    let seen = lab.httpbin.last_request().unwrap();
    assert!([pod.v4, pod.v6].contains(&seen.peer.ip()), "{seen:?}");
    let refused = format!("http://{}/", v4(host::BYSTANDER));
    let denied = |why: &str| {
        let (code, time, done) = node.curl(&pod, &[&refused]).unwrap();
        assert!(code == 0 && done.exit == 7 && time < 0.1, "{why}: {done:?}");
    };
    denied("unlisted");
    // A rule that the kubelet swaps in is in force a moment later.
    lab.remove_rules("httpbin.yaml").unwrap();
    wait_until("the rule is gone", SOON, || {
        (node.curl(&pod, &["http://httpbin.org/get"]).unwrap().0 == 0).then_some(())
    })
    .unwrap();
    // Its pins are the node's: the gate outlives the pod.
    node.cri.remove(&agent.pod.sandbox).unwrap();
    denied("without an agent");
    assert_eq!(lab.bystander.connections(), 0);
    lab.write_rules("httpbin.yaml", HTTPBIN).unwrap();
    let next = daemonset::deploy(&lab, &node, 101).unwrap();
    assert_eq!(get(&node, &pod, "http://httpbin.org/get"), 200);
    node.cri.remove(&next.pod.sandbox).unwrap();
}
