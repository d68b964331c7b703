//! Metrics and health of the real agent over HTTP: what they say, that their text is valid, and that a hostile client
//! keeps neither other clients nor the agent waiting.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod expected;
mod hostile;

use egress_tests::lab::{host, v4};
use egress_tests::readiness::{self, spawn};
use egress_tests::rules::{GOOGLE, HTTPBIN};
use egress_tests::scrape::{Answer, Scrape, answer, get, promtool_check};
use egress_tests::{Lab, LabOptions, wait_until};
use expected::EXPECTED;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// In the lab's own namespace.
const AT: &str = "127.0.0.1:15020";
const SOON: Duration = Duration::from_secs(10);

fn at() -> SocketAddr {
    AT.parse().unwrap()
}

fn options() -> LabOptions {
    LabOptions::flags(&[
        "--monitoring-address",
        AT,
        "--canary-interval",
        "1s",
        "--workload",
        "{cgroup: client, namespace: shop, serviceAccount: web}",
    ])
}

fn path(lab: &Lab, path: &str) -> Answer {
    get(lab.node(), at(), path).unwrap()
}

fn scrape(lab: &Lab) -> Scrape {
    Scrape::of(lab.node(), at()).unwrap()
}

/// Scrapes until a value fits. Current values are up to a second old.
fn until(lab: &Lab, name: &str, labels: &[(&str, &str)], fits: impl Fn(f64) -> bool) -> Scrape {
    let mut last = None;
    wait_until(name, SOON, || {
        let scrape = scrape(lab);
        let value = scrape.value(name, labels);
        last = value;
        value.is_some_and(&fits).then_some(scrape)
    })
    .unwrap_or_else(|error| panic!("{error}: {name}{labels:?} is {last:?}"))
}

#[test]
fn metrics_say_what_the_agent_did_and_are_valid() {
    let lab = Lab::start_with(options()).unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    lab.rules("google.yaml", GOOGLE).unwrap();
    let (httpbin, bystander) = ("http://httpbin.org/get", v4(host::BYSTANDER));
    assert_eq!(lab.curl(&[httpbin]).unwrap().code, 200);
    assert_eq!(lab.curl(&["https://www.google.com/"]).unwrap().code, 200);
    let unlisted = SocketAddr::new(bystander, 443);
    assert!(lab.attempt("tcp", unlisted).unwrap().denied());
    let other = ["-H", "Host: other.example", httpbin];
    assert_ne!(lab.curl(&other).unwrap().code, 200);
    let left = lab.curl(&["--max-time", "0.5", "http://httpbin.org/delay/9"]);
    assert_eq!(left.unwrap().exit, 28);
    lab.write_rules("bad.yaml", "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bad}\nspec: {hosts: [a.example], ports: [{number: 0, name: x, protocol: HTTP}], resolution: DNS}\n").unwrap();

    let flag = [("response_flag", "DC")];
    until(&lab, "egress_proxy_response_flags_total", &flag, |n| {
        n > 0.5
    });
    let rejected = [("kind", "ServiceEntry"), ("instead", "left-out")];
    let scrape = until(
        &lab,
        "egress_rules_messages",
        &[("severity", "problem")],
        |n| n >= 1.0,
    );
    let value = |name: &str, labels: &[(&str, &str)]| {
        let value = scrape.value(name, labels);
        value.unwrap_or_else(|| panic!("no {name}{labels:?}:\n{}", scrape.text))
    };
    let others = EXPECTED.iter().filter_map(|(name, labels, fits)| {
        let value = value(name, labels);
        let said = || format!("{name}{labels:?} is {value}, not {fits:?}");
        (!fits.contains(&value)).then(said)
    });
    assert_eq!(others.collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(
        scrape.value("egress_rules_rejected", &rejected),
        Some(1.0),
        "{}",
        scrape.text
    );
    let denied = |by, reason| {
        let labels = [
            ("by", by),
            ("reason", reason),
            ("verdict", "denied"),
            ("workload_namespace", "shop"),
        ];
        value("egress_denials_total", &labels)
    };
    assert!(denied("kernel", "not-listed") >= 1.0 && denied("proxy", "host-not-listed") >= 1.0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    for name in [
        "egress_canary_last_passed_timestamp_seconds",
        "egress_rules_last_applied_timestamp_seconds",
        "process_start_time_seconds",
    ] {
        let age = now - value(name, &[]);
        assert!((-1.0..120.0).contains(&age), "{name}: {age} s ago");
    }

    // Each documented metric is there, and no other.
    let documented: BTreeSet<String> = egress_agent::monitoring::names().into_iter().collect();
    for sample in &scrape.samples {
        assert!(
            documented.contains(&sample.name),
            "{} is not documented",
            sample.name
        );
    }
    for metric in scrape.types() {
        let known = documented.contains(metric) || documented.contains(&format!("{metric}_count"));
        assert!(known, "{metric} is not documented");
    }
    promtool_check(&["check", "metrics"], &scrape.text).unwrap();
}

#[test]
fn openmetrics_is_served_to_those_who_ask_for_it() {
    let lab = Lab::start_with(options()).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1\r\n\r\n";
    let answer = answer(lab.node(), at(), request.as_bytes()).unwrap();
    assert!(
        answer
            .head
            .contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{}",
        answer.head
    );
    assert!(answer.body.ends_with("# EOF\n"));
    assert!(
        answer
            .body
            .contains("# TYPE egress_canaries counter\negress_canaries_total{")
    );
}

#[test]
fn health_is_what_status_says() {
    let mut lab = Lab::start_with(options()).unwrap();
    let live = path(&lab, "/livez");
    assert_eq!((live.code, live.body.as_str()), (200, "alive\n"));
    let ready = path(&lab, "/readyz");
    assert_eq!((ready.code, ready.body.as_str()), (200, "ready\n"));
    assert_eq!(readiness::status(&lab).unwrap().0, 0);

    // An agent with a root that does not exist is not ready.
    lab.agent().unwrap().terminate().unwrap();
    let missing = lab.workloads().path().with_file_name("missing");
    let missing = missing.to_str().unwrap();
    let _agent = spawn(&lab, &lab.agent_place(), &["--cgroup", missing]).unwrap();
    readiness::not_ready(&lab, missing).unwrap();
    assert_eq!(readiness::status(&lab).unwrap().0, 1);
    let ready = path(&lab, "/readyz");
    assert_eq!(ready.code, 503);
    assert!(
        ready.body.starts_with("not ready\n") && ready.body.contains(missing),
        "{}",
        ready.body
    );
    assert_eq!(path(&lab, "/livez").code, 200);
    until(&lab, "egress_not_ready", &[("reason", "roots")], |n| {
        n > 0.5
    });
    assert_eq!(scrape(&lab).value("egress_ready", &[]), Some(0.0));
}

#[test]
fn a_taken_port_is_logged_once_and_taken_when_it_is_free() {
    let mut lab = Lab::without_agent(options()).unwrap();
    let holder = lab.node().run(|| TcpListener::bind(at())).unwrap().unwrap();
    lab.start_agent().unwrap();
    let agent = lab.agent().unwrap();
    let told = |line: &str| line.contains("cannot listen for metrics and health");
    let line = agent.wait_line(0, SOON, "the taken port", told).unwrap();
    assert!(line.contains(AT), "{line}");
    assert!(
        lab.attempt("tcp", SocketAddr::new(v4(host::BYSTANDER), 443))
            .unwrap()
            .denied()
    );
    assert_eq!(lab.status().unwrap()["ready"], true);
    drop(holder);
    wait_until("it is served", SOON, || {
        get(lab.node(), at(), "/readyz")
            .ok()
            .filter(|a| a.code == 200)
    })
    .unwrap();
    let lines = lab.agent().unwrap().log_since(0);
    assert_eq!(lines.iter().filter(|line| told(line)).count(), 1);
}

#[test]
fn the_next_agent_serves_at_the_same_address() {
    let mut lab = Lab::start_with(options()).unwrap();
    // It waits until the first one is stopped.
    let mut next = spawn(&lab, &lab.agent_place(), &["--standby"]).unwrap();
    assert_eq!(path(&lab, "/readyz").code, 200);
    let first = scrape(&lab)
        .value("process_start_time_seconds", &[])
        .unwrap();
    lab.agent()
        .unwrap()
        .signal(rustix::process::Signal::TERM)
        .unwrap();
    next.wait_ready().unwrap();
    wait_until("the next agent serves", SOON, || {
        let scrape = Scrape::of(lab.node(), at()).ok()?;
        (scrape.value("process_start_time_seconds", &[])? > first).then_some(())
    })
    .unwrap();
    let mut old = lab.swap_agent(next).unwrap();
    assert!(old.wait_end(Duration::from_secs(20)).unwrap().success());
    assert_eq!(path(&lab, "/readyz").code, 200);
}
