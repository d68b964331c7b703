//! A denial by the kernel and one by the proxy have the same words: in the log, in `status`, and to
//! `explain --workload`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::cgroup;
use egress_tests::lab::{host, v4};
use egress_tests::{Lab, LabOptions, wait_until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

const HTTPBIN: &str = include_str!("../../examples/httpbin-serviceentry.yaml");
/// Hides the host from every namespace but this one.
const SHOP_ONLY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shop, namespace: shop}
spec:
  hosts: [shop.example]
  exportTo: ['.']
  ports: [{number: 81, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.10}]
";
const ENTRY: &str = "{cgroup: client, namespace: shop, serviceAccount: web}";
const SOON: Duration = Duration::from_secs(10);
/// The fields of every denied TCP flow of a workload's process.
const COMMON: [&str; 13] = [
    "timestamp",
    "level",
    "target",
    "message",
    "by",
    "reason",
    "destination",
    "protocol",
    "workload",
    "cgroup",
    "pid",
    "comm",
    "repeated",
];

fn lab(mode: &str) -> Lab {
    let flags = ["--workload", ENTRY, "--log-format", "json", "--mode", mode];
    let lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    lab.rules("shop.yaml", SHOP_ONLY).unwrap();
    wait_until("the workload has a policy", SOON, || {
        let status = lab.status().ok()?;
        let workloads = status["workloads"].as_array()?;
        let ours = workloads.iter().find(|w| w["identity"] == "shop/web")?;
        ours["policy"].is_u64().then_some(())
    })
    .unwrap();
    lab
}

/// Dials an unlisted destination, and requests an unlisted name at a listed address. Returns the log lines of both.
fn lines(lab: &mut Lab) -> [Value; 2] {
    let to = SocketAddr::new(v4(host::BYSTANDER), 80);
    lab.attempt("tcp", to).unwrap();
    let resolve = format!("other.example:80:{}", v4(host::HTTPBIN));
    lab.curl(&["--resolve", &resolve, "http://other.example/get"])
        .unwrap();
    let agent = lab.agent().unwrap();
    ["kernel", "proxy"].map(|by| {
        let of = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            let ours = line["workload"] == "shop/web" || line["names"] == "other.example";
            (line["by"] == by && ours).then_some(line)
        };
        wait_until(&format!("the line of the {by}"), SOON, || {
            agent.log_since(0).iter().find_map(|line| of(line))
        })
        .unwrap()
    })
}

#[test]
fn kernel_and_proxy_say_a_denial_in_the_same_words() {
    let mut lab = lab("enforce");
    let [kernel, proxy] = lines(&mut lab);
    let fields =
        |line: &Value| -> BTreeSet<String> { line.as_object().unwrap().keys().cloned().collect() };
    let status = lab.status().unwrap();
    let workloads = status["workloads"].as_array().unwrap();
    let ours = workloads
        .iter()
        .find(|w| w["identity"] == "shop/web")
        .unwrap();
    for line in [&kernel, &proxy] {
        let missing: Vec<_> = COMMON.iter().filter(|f| line[**f].is_null()).collect();
        assert!(missing.is_empty(), "{missing:?}: {line}");
        assert_eq!(line["message"], "denied", "{line}");
        assert_eq!(line["level"], "WARN", "{line}");
        assert_eq!(line["workload"], "shop/web", "{line}");
        assert_eq!(line["cgroup"], ours["cgroup"], "{line}");
        let reason = line["reason"].as_str().unwrap();
        let kebab = |c: char| c.is_ascii_lowercase() || c == '-';
        assert!(reason.chars().all(kebab), "{line}");
    }
    assert_eq!(kernel["reason"], "not-listed");
    assert_eq!(proxy["reason"], "host-not-listed");
    assert_eq!(proxy["names"], "other.example");
    let own: [BTreeSet<_>; 2] = [
        fields(&kernel)
            .difference(&fields(&proxy))
            .cloned()
            .collect(),
        fields(&proxy)
            .difference(&fields(&kernel))
            .cloned()
            .collect(),
    ];
    let allowed = ["hook", "nearest", "detail", "peer", "names", "policy"];
    assert!(
        own.iter().flatten().all(|f| allowed.contains(&f.as_str())),
        "{own:?}"
    );
    assert_eq!(status["proxy"]["denied"], 1);

    // explain accepts each spelling. No other workload sees the host.
    let folder = cgroup::mount_point()
        .unwrap()
        .join(&ours["cgroup"].as_str().unwrap()[1..]);
    let spellings = [
        "shop/web",
        kernel["cgroup"].as_str().unwrap(),
        folder.to_str().unwrap(),
    ];
    let socket = lab.admin_socket().display().to_string();
    let explain = |more: &[&str]| {
        let all = [
            &["explain", "--admin-socket", &socket],
            more,
            &["198.51.100.10:81"],
        ];
        lab.verb(&all.concat()).unwrap()
    };
    for workload in spellings {
        let told = explain(&["--workload", workload]);
        assert_eq!(told.exit, 0, "{workload}: {told:?}");
    }
    let nobody = explain(&[]);
    assert_eq!(nobody.exit, 1, "{nobody:?}");
    let unknown = explain(&["--workload", "shop/other"]);
    assert_eq!(unknown.exit, 64, "{unknown:?}");
}

#[test]
fn audit_is_said_in_the_same_words() {
    let mut lab = lab("audit");
    for line in lines(&mut lab) {
        assert_eq!(line["message"], "would_deny", "{line}");
        assert_eq!(line["level"], "INFO", "{line}");
        assert_eq!(line["workload"], "shop/web", "{line}");
    }
}
