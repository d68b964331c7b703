//! `explain --rules` on files: it needs no agent, and judges as an agent with the named config would.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

use std::fs;
use std::path::Path;
use std::process::Command;

const RULES: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 8443, name: tls, protocol: TLS}]
  resolution: DNS
";

/// Exit code and standard output.
fn explain(folder: &Path, args: &[&str]) -> (i32, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_egress-agent"))
        .args(["explain", "--rules"])
        .arg(folder.join("rules.yaml"))
        .args(args)
        .output()
        .unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(stderr, "", "{args:?}");
    (
        out.status.code().unwrap(),
        String::from_utf8(out.stdout).unwrap(),
    )
}

#[test]
fn the_config_of_the_agent_decides_with_the_rules() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("rules.yaml"), RULES).unwrap();
    let config = dir.path().join("agent.yaml");
    let with = |text: &str, destination: &str| {
        fs::write(&config, text).unwrap();
        explain(
            dir.path(),
            &["--config", config.to_str().unwrap(), destination],
        )
    };
    let dns = "dns: {servers: [192.0.2.53]}\n";
    for (text, destination, exit, words) in [
        (dns, "10.1.2.3:5432", 1, "no rule lists 10.1.2.3"),
        (
            "internal: [10.0.0.0/8]\ndns: {servers: [192.0.2.53]}\n",
            "10.1.2.3:5432",
            0,
            "it is in 10.0.0.0/8, one of the agent's `internal` ranges",
        ),
        (dns, "127.0.0.1:80", 0, "it is loopback"),
        (dns, "[::1]:80", 0, "it is loopback"),
        (dns, "192.0.2.53:53", 0, "it is a name server"),
        (
            "outboundTrafficPolicy: ALLOW_ANY\n",
            "other.example:443",
            0,
            "outboundTrafficPolicy is ALLOW_ANY",
        ),
        // Host and server name are then checked at any address.
        (
            "unlistedAddress: byName\n",
            "192.0.2.9:80",
            0,
            "HTTP to the Host a.example passes",
        ),
        (
            "mode: audit\n",
            "other.example:443",
            1,
            "logged as would_deny",
        ),
    ] {
        let (code, told) = with(text, destination);
        assert_eq!(code, exit, "{text} {destination}: {told}");
        assert!(told.contains(words), "{text} {destination}: {told}");
    }
}

#[test]
fn names_have_addresses_without_a_name_server() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("rules.yaml"), RULES).unwrap();
    for (destination, exit) in [
        ("http://a.example/", 0),
        ("a.example:80", 0),
        ("https://a.example:8443", 0),
        ("https://a.example:80", 1),
        ("http://a.example:8443", 1),
        ("b.example:80", 1),
    ] {
        let (code, told) = explain(dir.path(), &[destination]);
        assert_eq!(code, exit, "{destination}: {told}");
    }
}

#[test]
fn the_answer_for_machines_says_who_denies() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("rules.yaml"), RULES).unwrap();
    let null = serde_json::Value::Null;
    for (destination, allowed, by, reason) in [
        ("a.example:80", true, null.clone(), null),
        (
            "https://a.example:80",
            false,
            "proxy".into(),
            "wrong-protocol".into(),
        ),
        ("b.example:80", false, "kernel".into(), "not-listed".into()),
    ] {
        let (_, told) = explain(dir.path(), &["-o", "json", destination]);
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["allowed"], allowed, "{told}");
        assert_eq!(told["deniedBy"], by, "{told}");
        assert_eq!(told["reason"], reason, "{told}");
    }
}

#[test]
fn rules_that_cannot_be_read_are_bad_usage() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let binary = dir.path().join("binary.yaml");
    fs::write(&binary, b"kind: \xff").unwrap();
    for path in [absent.as_path(), binary.as_path()] {
        let out = Command::new(env!("CARGO_BIN_EXE_egress-agent"))
            .args(["explain", "--rules"])
            .args([path.as_os_str(), "a.example:1".as_ref()])
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(64), "{out:?}");
        assert!(out.stdout.is_empty(), "{out:?}");
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(path.to_str().unwrap()), "{stderr}");
    }
}
