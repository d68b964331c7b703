//! The validating webhook, asked over TLS as the API server asks it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::hosts::Authority;
use egress_tests::rules::HTTPBIN;
use egress_tests::{Lab, LabOptions, client, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);
const PORT: u16 = 9443;
const NAME: &str = "egress-agent.egress-system.svc";

struct Webhook {
    lab: Lab,
    authority: Authority,
    folder: TempDir,
}

impl Webhook {
    /// A running agent, without a certificate yet.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{PORT}");
        let path = folder.path().display().to_string();
        let flags = [
            "--admission-address",
            &address,
            "--admission-certificate",
            &path,
        ];
        Self {
            lab: Lab::start_with(LabOptions::flags(&flags)).unwrap(),
            authority: Authority::new().unwrap(),
            folder,
        }
    }

    fn certify(&self, authority: &Authority) {
        let (certificate, key) = authority.identity(&[NAME]).unwrap();
        fs::write(self.folder.path().join("tls.crt"), certificate).unwrap();
        fs::write(self.folder.path().join("tls.key"), key).unwrap();
    }

    /// The status and the body of the answer; 0 if there is none.
    fn post(&self, body: &str, more: &[&str]) -> (u16, String) {
        let file = self.folder.path().join("question");
        fs::write(&file, body).unwrap();
        let place = self.lab.agent_place();
        let mut command = place.command("curl").unwrap();
        let resolve = format!("{NAME}:{PORT}:127.0.0.1");
        command.args([
            "-sS",
            "-m",
            "10",
            "--http1.1",
            "-w",
            "\n%{http_code}",
            "--resolve",
            &resolve,
            "--cacert",
        ]);
        command
            .arg(self.authority.path())
            .arg("--data-binary")
            .arg(format!("@{}", file.display()));
        command
            .args(["-H", "Content-Type: application/json", "-H", "Expect:"])
            .args(more);
        command.arg(format!("https://{NAME}:{PORT}/validate"));
        let ended = client::run(command, Duration::from_secs(20)).unwrap();
        let (body, code) = ended.stdout.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), body.to_owned())
    }

    /// The `response` to an AdmissionReview of an object.
    fn review(&self, object: &Value) -> Value {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "0f1e2d3c", "operation": "CREATE", "object": object, "oldObject": null, "dryRun": false,
                "kind": {"group": "networking.istio.io", "version": "v1", "kind": object["kind"]},
                "resource": {"group": "networking.istio.io", "version": "v1", "resource": "serviceentries"},
                "name": "httpbin-ext", "namespace": "default", "userInfo": {"username": "a"},
            },
        });
        let (code, body) = self.post(&review.to_string(), &[]);
        assert_eq!(code, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        answer["response"].clone()
    }

    fn wait_served(&self) {
        wait_until("the webhook answers", SOON, || {
            (self.post("{}", &[]).0 == 400).then_some(())
        })
        .unwrap();
    }
}

fn object(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

#[test]
fn an_invalid_object_is_denied_with_the_words_of_check() {
    let webhook = Webhook::start();
    assert_eq!(webhook.post("{}", &[]).0, 0, "no certificate yet");
    webhook.certify(&webhook.authority);
    webhook.wait_served();
    let response = webhook.review(&object(HTTPBIN));
    assert_eq!(response, json!({"uid": "0f1e2d3c", "allowed": true}));
    let broken = HTTPBIN.replace("resolution: DNS", "resolution: SOMEHOW");
    let response = webhook.review(&object(&broken));
    assert_eq!(
        (&response["allowed"], &response["uid"]),
        (&json!(false), &json!("0f1e2d3c"))
    );
    let path = webhook.folder.path().join("broken.yaml");
    fs::write(&path, &broken).unwrap();
    let checked = webhook
        .lab
        .verb(&["check", &path.display().to_string()])
        .unwrap();
    let message = response["status"]["message"].as_str().unwrap();
    let (field, text) = message.split_once(": ").unwrap();
    assert!(
        checked.stdout.contains(field) && checked.stdout.contains(text),
        "{message}: {checked:?}"
    );
}

#[test]
fn a_renewed_certificate_is_used() {
    let webhook = Webhook::start();
    webhook.certify(&Authority::new().unwrap());
    let answers = || webhook.post("{}", &[]).0;
    assert_eq!(answers(), 0, "of another authority");
    webhook.certify(&webhook.authority);
    wait_until("the new certificate", SOON, || {
        (answers() == 400).then_some(())
    })
    .unwrap();
}

#[test]
fn hostile_bodies_are_bounded_and_change_nothing() {
    let webhook = Webhook::start();
    webhook.certify(&webhook.authority);
    webhook.wait_served();
    // Only announced: the connection of a client that goes on sending may be reset before it reads the answer.
    let large = format!("Content-Length: {}", 8 << 20);
    assert_eq!(webhook.post("{}", &["-H", &large]).0, 413);
    assert_eq!(
        webhook.post("{}", &["-H", "Transfer-Encoding: chunked"]).0,
        411
    );
    assert_eq!(webhook.post("{}", &["-X", "PUT"]).0, 405);
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(webhook.post(&deep, &[]).0, 400);
    let mut odd = object(HTTPBIN);
    odd["metadata"] = json!({"name": "../../etc", "namespace": "a\nb"});
    odd["spec"]["hosts"] = json!(["x".repeat(1 << 20)]);
    let response = webhook.review(&odd);
    assert_eq!(response["allowed"], false);
    assert!(response["status"]["message"].as_str().unwrap().len() < 4096);
    assert!(webhook.lab.status().unwrap()["ready"] == true);
}
