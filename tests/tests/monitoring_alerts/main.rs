//! Every alert of `deploy/monitoring` fires when it should and only then, by promtool, and the metrics of a real agent make
//! the important ones fire.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod cases;

use cases::CASES;
use egress_tests::alerts::{self, Series, firing};
use egress_tests::lab::{host, v4};
use egress_tests::readiness::spawn;
use egress_tests::rules::HTTPBIN;
use egress_tests::scrape::{Sample, Scrape, promtool_check};
use egress_tests::{Lab, LabOptions, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

const AT: &str = "127.0.0.1:15020";
const SOON: Duration = Duration::from_secs(20);
/// Labels that Prometheus adds to what it scrapes.
const ADDED: &str = "job=\"egress-system/egress-agent\",instance=\"node-1\"";

fn manifest() -> Value {
    let text = fs::read_to_string(alerts::file("prometheusrule.yaml")).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

fn rules(manifest: &Value) -> Vec<&Value> {
    let groups = manifest["spec"]["groups"].as_array().unwrap();
    groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect()
}

fn names(manifest: &Value) -> Vec<&str> {
    let rules = rules(manifest).into_iter();
    rules.map(|rule| rule["alert"].as_str().unwrap()).collect()
}

/// The words of an expression that are names of metrics.
fn metrics_in(expr: &str) -> impl Iterator<Item = &str> {
    let words = expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("egress_") || word.starts_with("process_"))
}

fn assert_known(expr: &str, what: &str) {
    let known: BTreeSet<String> = egress_agent::monitoring::names().into_iter().collect();
    for metric in metrics_in(expr) {
        assert!(
            known.contains(metric),
            "{what}: {metric} is no metric of the agent"
        );
    }
}

#[test]
fn the_alerts_are_valid_and_complete() {
    let manifest = manifest();
    assert_eq!(manifest["kind"], "PrometheusRule");
    for rule in rules(&manifest) {
        let name = rule["alert"].as_str().unwrap();
        assert_known(rule["expr"].as_str().unwrap(), name);
        assert!(
            matches!(
                rule["labels"]["severity"].as_str(),
                Some("critical" | "warning" | "info")
            ),
            "{name}"
        );
        for part in ["summary", "description"] {
            assert!(
                rule["annotations"][part]
                    .as_str()
                    .is_some_and(|text| text.ends_with('.')),
                "{name} {part}"
            );
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.json");
    fs::write(&file, alerts::groups(&manifest).unwrap()).unwrap();
    promtool_check(&["check", "rules", file.to_str().unwrap()], "").unwrap();
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    let manifest = manifest();
    let groups = alerts::groups(&manifest).unwrap();
    let tested: Vec<_> = CASES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(
        tested,
        names(&manifest),
        "each alert has a case, in their order"
    );
    for (name, minutes, metrics) in CASES {
        let given = |bad: bool| -> Vec<Series> {
            let series = metrics.iter().map(|(metric, labels, fine, not)| {
                let separator = if labels.is_empty() { "" } else { "," };
                let values = if bad { not } else { fine };
                (
                    format!("{metric}{{{ADDED}{separator}{labels}}}"),
                    (*values).to_owned(),
                )
            });
            series.collect()
        };
        let fires = |bad| {
            !firing(&groups, &[name], &given(bad), *minutes)
                .unwrap()
                .is_empty()
        };
        assert!(!fires(false), "{name} fires although nothing is wrong");
        assert!(fires(true), "{name} does not fire");
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let text = fs::read_to_string(alerts::file("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut queries = Vec::new();
    for panel in panels {
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{}",
            panel["title"]
        );
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            assert_known(query, panel["title"].as_str().unwrap());
            assert!(metrics_in(query).next().is_some(), "{query}");
            queries.push(
                query
                    .replace("$__rate_interval", "5m")
                    .replace("$instance", ".*"),
            );
        }
    }
    assert!(queries.len() > 20);
    let rules: Vec<_> = queries
        .iter()
        .enumerate()
        .map(|(n, expr)| json!({"record": format!("panel:{n}"), "expr": expr}))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.json");
    fs::write(
        &file,
        json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string(),
    )
    .unwrap();
    promtool_check(&["check", "rules", file.to_str().unwrap()], "").unwrap();
}

fn options(more: &[&str]) -> LabOptions {
    let flags = ["--monitoring-address", AT, "--canary-interval", "1s"];
    LabOptions::flags(&[&flags, more].concat())
}

fn scrape(lab: &Lab) -> Scrape {
    Scrape::of(lab.node(), AT.parse().unwrap()).unwrap()
}

fn until(lab: &Lab, name: &str, labels: &[(&str, &str)], fits: impl Fn(f64) -> bool) -> Scrape {
    wait_until(name, SOON, || {
        let scrape = scrape(lab);
        scrape
            .value(name, labels)
            .is_some_and(&fits)
            .then_some(scrape)
    })
    .unwrap()
}

/// The alerts that fire if an agent says the second for an hour, after it said the first.
fn alerts_of(scrapes: [&[Sample]; 2]) -> BTreeSet<String> {
    let manifest = manifest();
    let groups = alerts::groups(&manifest).unwrap();
    let added = [
        ("job", "egress-system/egress-agent"),
        ("instance", "node-1"),
    ];
    // What is about the present time would be old after an hour.
    let timeless = |samples: &[Sample]| -> Vec<Sample> {
        let old = |sample: &&Sample| !sample.name.starts_with("egress_canary_last_passed");
        samples.iter().filter(old).cloned().collect()
    };
    let [first, second] = scrapes.map(timeless);
    let mut series = alerts::series([&first, &second], &added, 14);
    series.push((format!("up{{{ADDED}}}"), "1x15".into()));
    firing(&groups, &names(&manifest), &series, 14).unwrap()
}

#[test]
fn a_healthy_agent_fires_no_alert() {
    let lab = Lab::start_with(options(&[])).unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
    let first = until(
        &lab,
        "egress_rules_objects",
        &[("kind", "ServiceEntry")],
        |n| n > 0.5,
    );
    let second = scrape(&lab);
    assert_eq!(
        alerts_of([&first.samples, &second.samples]),
        BTreeSet::new()
    );
}

#[test]
fn an_agent_in_trouble_fires_the_alerts_about_it() {
    // Room for one network; a name server that does not answer; a root that does not exist.
    let mut lab = Lab::start_with(LabOptions {
        servers: vec![SocketAddr::new(v4(host::BYSTANDER), 53)],
        ..options(&["--max-networks", "1"])
    })
    .unwrap();
    lab.agent().unwrap().terminate().unwrap();
    let missing = lab.workloads().path().with_file_name("missing");
    let _agent = spawn(
        &lab,
        &lab.agent_place(),
        &["--cgroup", missing.to_str().unwrap()],
    )
    .unwrap();
    let first = wait_until("it serves", SOON, || {
        Scrape::of(lab.node(), AT.parse().ok()?).ok()
    })
    .unwrap();
    let network = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: net}\nspec: {hosts: [net.example], addresses: [192.0.2.0/25], ports: [{number: 5432, name: tcp, protocol: TCP}], resolution: NONE}\n";
    lab.write_rules("network.yaml", network).unwrap();
    lab.write_rules("httpbin.yaml", HTTPBIN).unwrap();
    lab.write_rules("bad.yaml", "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bad}\nspec: {hosts: []}\n").unwrap();
    until(&lab, "egress_rules_last_load_successful", &[], |n| n < 0.5);
    until(&lab, "egress_dns_names_failing", &[], |n| n > 0.0);
    until(&lab, "egress_not_ready", &[("reason", "roots")], |n| {
        n > 0.5
    });
    let second = until(
        &lab,
        "egress_table_entries",
        &[("table", "networks")],
        |n| n > 0.5,
    );
    let fired = alerts_of([&first.samples, &second.samples]);
    for name in [
        "EgressAgentNotReady",
        "EgressGateOpen",
        "EgressRulesRejected",
        "EgressTableNearlyFull",
        "EgressDNSFailing",
    ] {
        assert!(fired.contains(name), "{name} does not fire: {fired:?}");
    }
}
