//! kubectl against the test's API server: it speaks what a client of the real one expects.

use egress_tests::api::{FakeApi, Resource};
use serde_json::Value;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

fn kubectl(kubeconfig: &Path, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--cache-dir")
        .arg(kubeconfig.with_file_name("cache"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl is installed");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn kubectl_creates_reads_changes_and_deletes_objects() {
    let api = FakeApi::start_tls().unwrap();
    api.install(Resource::istio("ServiceEntry", "serviceentries"));
    let kubeconfig = api.kubeconfig().unwrap();
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a, namespace: shop}\n\
                 spec: {hosts: [a.example]}\n";
    let apply = ["apply", "--validate=false", "-f", "-"];
    kubectl(&kubeconfig, &apply, entry);
    let read = || {
        let text = kubectl(
            &kubeconfig,
            &["get", "serviceentries", "-A", "-o", "json"],
            "",
        );
        let list: Value = serde_json::from_str(&text).unwrap();
        list["items"].clone()
    };
    assert_eq!(read()[0]["spec"]["hosts"][0], "a.example");
    kubectl(
        &kubeconfig,
        &apply,
        &entry.replace("a.example", "b.example"),
    );
    let changed = read();
    assert_eq!(changed[0]["spec"]["hosts"][0], "b.example");
    assert_eq!(changed[0]["metadata"]["generation"], 2);
    kubectl(
        &kubeconfig,
        &["delete", "serviceentry", "a", "-n", "shop", "--wait=false"],
        "",
    );
    assert_eq!(read().as_array().unwrap().len(), 0);
}
