//! The access log of a running agent: switched on, changed and off by its config file, without a restart.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::lab::{host, v4};
use egress_tests::rules::{GOOGLE_ENTRY, HTTPBIN};
use egress_tests::{Lab, LabOptions, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Writes the config and waits until it is in force.
fn configure(lab: &mut Lab, file: &Path, text: &str) {
    let mark = lab.agent().unwrap().mark();
    fs::write(file, text).unwrap();
    let agent = lab.agent().unwrap();
    agent.signal(Signal::HUP).unwrap();
    agent
        .wait_line(mark, SOON, "config applied", |line| {
            line.contains("config applied")
        })
        .unwrap();
}

/// The lines of a file, once there are so many.
fn lines(file: &Path, count: usize) -> Vec<String> {
    wait_until("lines of the access log", SOON, || {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
    .unwrap()
}

fn ask(lab: &Lab, url: &str, options: &[&str]) -> u16 {
    let arguments = [
        &["-sS", "-4", "-m", "10", "-k", "-A", "a \"test\""],
        options,
        &[url],
    ]
    .concat();
    lab.curl(&arguments).unwrap().code
}

#[test]
fn the_config_switches_the_access_log_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (config, text, json) = (
        dir.path().join("agent.yaml"),
        dir.path().join("access.log"),
        dir.path().join("access.json"),
    );
    fs::write(&config, "mode: enforce\n").unwrap();
    let flags = ["--config", config.to_str().unwrap()];
    let mut lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
    let rules = [HTTPBIN, GOOGLE_ENTRY].join("\n---\n");
    lab.rules("rules.yaml", &rules).unwrap();
    let pid = lab.agent().unwrap().pid();
    assert_eq!(ask(&lab, "http://httpbin.org/headers", &[]), 200);

    configure(
        &mut lab,
        &config,
        &format!("accessLogFile: {}\n", text.display()),
    );
    assert_eq!(ask(&lab, "http://httpbin.org/headers", &[]), 200);
    let written = lines(&text, 1);
    let address = format!("{}:80", v4(host::HTTPBIN));
    for part in [
        "\"GET /headers HTTP/1.1\" 200 - via_upstream - \"-\" 0 ",
        "\"a \\\"test\\\"\"",
        &format!("\"httpbin.org\" \"{address}\" outbound|80||httpbin.org 203.0.113.1:"),
        &format!(" {address} 127.0.0.1:"),
    ] {
        assert!(written[0].contains(part), "{part}: {written:?}");
    }
    assert!(written[0].ends_with(" - default"), "{written:?}");

    // A denied Host at a listed address, and TLS.
    assert_eq!(
        ask(&lab, "http://httpbin.org/", &["-H", "Host: other.example"]),
        502
    );
    assert_eq!(ask(&lab, "https://www.google.com/", &[]), 200);
    let written = lines(&text, 3);
    assert!(written[1].contains("502 - direct_response"), "{written:?}");
    assert!(written[2].ends_with(" www.google.com -"), "{written:?}");

    // Rotation: the file is moved, and SIGHUP opens a new one.
    fs::rename(&text, dir.path().join("access.log.1")).unwrap();
    lab.agent().unwrap().signal(Signal::HUP).unwrap();
    wait_until("a new file", SOON, || text.exists().then_some(())).unwrap();
    assert_eq!(ask(&lab, "http://httpbin.org/headers", &[]), 200);
    assert!(lines(&text, 1)[0].contains("/headers"));

    configure(
        &mut lab,
        &config,
        &format!(
            "accessLogFile: {}\naccessLogEncoding: JSON\n",
            json.display()
        ),
    );
    assert_eq!(ask(&lab, "http://httpbin.org/headers", &[]), 200);
    let read: Value = serde_json::from_str(&lines(&json, 1)[0]).unwrap();
    assert_eq!(
        (&read["path"], &read["user_agent"]),
        (&"/headers".into(), &"a \"test\"".into())
    );

    // A FIFO that nobody reads costs lines and nothing else.
    let fifo = dir.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    configure(
        &mut lab,
        &config,
        &format!("accessLogFile: {}\n", fifo.display()),
    );
    for _ in 0..3 {
        assert_eq!(ask(&lab, "http://httpbin.org/headers", &[]), 200);
    }
    wait_until("lost lines are counted", SOON, || {
        (lab.status().unwrap()["proxy"]["accessLogLost"] == 3).then_some(())
    })
    .unwrap();
    let said = lab.agent().unwrap().log_since(0);
    let errors = said
        .iter()
        .filter(|line| line.contains("cannot write the access log"));
    assert_eq!(errors.count(), 1, "said once");

    configure(&mut lab, &config, "mode: enforce\n");
    assert_eq!(ask(&lab, "http://httpbin.org/headers", &[]), 200);
    assert_eq!(lab.agent().unwrap().pid(), pid, "the same agent");
    assert_eq!((lines(&text, 1).len(), lines(&json, 1).len()), (1, 1));
    assert!(lab.agent().unwrap().terminate().unwrap().success());
}
