//! The real binary with wrong input: one line on stderr, the right exit code, and no effect.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

fn agent() -> Command {
    Command::new(env!("CARGO_BIN_EXE_egress-agent"))
}

fn run(args: &[&str]) -> Output {
    agent().args(args).output().unwrap()
}

#[track_caller]
fn refused(out: &Output, code: i32, parts: &[&str]) {
    let stderr = String::from_utf8(out.stderr.clone()).unwrap();
    assert_eq!(out.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{stderr:?} lacks {part:?}");
    }
    assert!(out.stdout.is_empty(), "{out:?}");
}

#[test]
fn bad_usage_is_one_line_and_64() {
    refused(&run(&["fly"]), 64, &["fly"]);
    refused(
        &run(&["run", "--proxy-port", "0", "--rules", "x", "--cgroup", "y"]),
        64,
        &["--proxy-port"],
    );
    refused(
        &run(&["run", "--on-exit", "open"]),
        64,
        &["--on-exit", "keep", "detach"],
    );
    refused(
        &run(&["run", "--cgroup", "/x"]),
        64,
        &["no rules", "--rules"],
    );
    refused(
        &run(&["run", "--rules", "/x"]),
        64,
        &["no enforced root", "--cgroup"],
    );
    refused(&run(&["exec"]), 64, &["CMD"]);
    refused(&run(&["exec", "--", "true"]), 64, &["no enforced root"]);
    refused(
        &run(&["exec", "--cgroup", "/nonexistent", "--", "true"]),
        64,
        &["/nonexistent"],
    );
}

#[test]
fn a_bad_config_file_is_named_with_field_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    let path = file.to_str().unwrap();
    for (text, parts) in [
        ("rules: [a]\nprooxyPort: 1\n", ["prooxyPort", "line 2"]),
        ("dns: {minTTL: soon}\n", ["dns.minTTL", "`soon`"]),
        ("rules: [a\n", [path, "line"]),
    ] {
        fs::write(&file, text).unwrap();
        refused(&run(&["run", "--config", path]), 64, &parts);
        refused(&run(&["detach", "--config", path]), 64, &parts);
    }
    refused(
        &run(&["run", "--config", "/nonexistent.yaml"]),
        64,
        &["/nonexistent.yaml", "No such file"],
    );
}

#[test]
fn without_privilege_it_is_77_and_nothing_happens() {
    let dir = tempfile::tempdir().unwrap();
    // The other user can read the copy's folder, but perhaps not the build's.
    let copy = dir.path().join("egress-agent");
    fs::copy(env!("CARGO_BIN_EXE_egress-agent"), &copy).unwrap();
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    for args in [&["run", "--rules", "/x", "--cgroup", "/y"][..], &["detach"]] {
        // Needs root, because it becomes the user nobody.
        let out = Command::new(&copy)
            .args(args)
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        refused(&out, 77, &["root", "CAP_NET_ADMIN"]);
    }
}

#[test]
fn a_bare_call_shows_the_help_and_is_bad_usage() {
    let (bare, help) = (run(&[]), run(&["--help"]));
    assert_eq!(bare.status.code(), Some(64));
    assert!(bare.stdout.is_empty(), "{bare:?}");
    assert_eq!(bare.stderr, help.stdout);
}

#[test]
fn what_nobody_foresaw_is_no_finding() {
    let dir = tempfile::tempdir().unwrap();
    // The answer is not a status, so it is neither "not ready" nor "no agent".
    let socket = dir.path().join("admin.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        stream.write_all(b"no status").unwrap();
    });
    let out = run(&["status", "--admin-socket", socket.to_str().unwrap()]);
    server.join().unwrap();
    refused(&out, 70, &["the agent's answer"]);
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let out = run(args);
        assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    }
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for verb in ["run", "exec", "check", "detach"] {
        assert!(help.contains(verb), "{help}");
    }
    assert!(
        !help.contains(egress_agent::verbs::exec::REAPER_VERB),
        "{help}"
    );
}

#[test]
fn explain_says_once_that_a_destination_is_denied() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let out = run(&["explain", "--rules", folder, "a.example:80"]);
    assert_eq!(out.status.code(), Some(1));
    let stdout = String::from_utf8(out.stdout).unwrap();
    assert!(stdout.starts_with("denied: "), "{stdout}");
    assert!(out.stderr.is_empty());
}

#[test]
fn check_ends_0_1_2_or_64() {
    let dir = tempfile::tempdir().unwrap();
    let good = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\n\
        spec:\n  hosts: [a.example]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: DNS\n";
    fs::write(dir.path().join("a.yaml"), good).unwrap();
    let folder = dir.path().to_str().unwrap();
    let out = run(&["check", folder]);
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    let ending = |out: &Output| {
        let text = String::from_utf8(out.stdout.clone()).unwrap();
        text.lines().last().unwrap().to_owned()
    };
    assert_eq!(ending(&out), "1 file, 1 object: 0 invalid, 0 with warnings");
    fs::write(dir.path().join("b.yaml"), good.replace("80", "{}")).unwrap();
    let out = run(&["check", folder]);
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(
        ending(&out),
        "2 files, 2 objects: 1 invalid, 0 with warnings"
    );
    assert!(out.stderr.is_empty(), "it is said once: {out:?}");
    let json = run(&["check", "-o", "json", folder]);
    assert_eq!(json.status.code(), Some(1));
    let lines = String::from_utf8(json.stdout).unwrap();
    assert_eq!(lines.lines().count(), 2, "one an object: {lines}");
    assert_eq!(
        String::from_utf8(json.stderr).unwrap(),
        "egress-agent: 2 files, 2 objects: 1 invalid, 0 with warnings\n"
    );
    fs::write(dir.path().join("b.yaml"), "a: [b\n").unwrap();
    assert_eq!(
        ending(&run(&["check", folder])),
        "2 files, 1 object: 0 invalid, 0 with warnings; 1 document unusable"
    );
    // An unreadable file does not hide messages about the others.
    fs::write(dir.path().join("b.yaml"), b"kind: \xff").unwrap();
    std::os::unix::fs::symlink("/nonexistent", dir.path().join("c.yaml")).unwrap();
    let unread = run(&["check", folder]);
    assert_eq!(unread.status.code(), Some(1));
    assert_eq!(
        ending(&unread),
        "3 files, 1 object: 0 invalid, 0 with warnings; 2 files unreadable"
    );
    let said = String::from_utf8(unread.stdout).unwrap();
    assert!(
        said.contains("b.yaml:1:1: error: cannot be read: the text is not UTF-8"),
        "{said}"
    );
    fs::remove_file(dir.path().join("c.yaml")).unwrap();
    let stdout = String::from_utf8(out.stdout).unwrap();
    assert!(
        stdout.contains("b.yaml:6:") && stdout.contains("spec.ports[0].number"),
        "{stdout}"
    );
    let opens = good
        .replace("DNS", "NONE")
        .replace("HTTP", "TCP")
        .replace("a.example", "b.example");
    fs::write(
        dir.path().join("b.yaml"),
        opens.replace("{name: a}", "{name: b}"),
    )
    .unwrap();
    assert_eq!(run(&["check", folder]).status.code(), Some(0));
    let out = run(&["check", "--strict", folder]);
    assert_eq!(out.status.code(), Some(2));
    assert!(
        ending(&out).ends_with("; 1 finding that --strict rejects"),
        "{out:?}"
    );
    // The same set of files as the agent's: folders in a folder are not read.
    let below = tempfile::tempdir().unwrap();
    refused(
        &run(&["check", below.path().to_str().unwrap()]),
        64,
        &["no rule file"],
    );
    fs::create_dir(below.path().join("team")).unwrap();
    fs::write(below.path().join("team/a.yaml"), good).unwrap();
    refused(
        &run(&["check", below.path().to_str().unwrap()]),
        64,
        &["no rule file", "team is not read"],
    );
    refused(
        &run(&["check", "/nonexistent.yaml"]),
        64,
        &["/nonexistent.yaml"],
    );
}

/// `status | head`: the reader may stop early, which does not change the exit code.
#[test]
fn check_reports_every_fault_of_an_object() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    let text = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  hosts: [a.example]\n  resolutions: DNS\n  ports: [{number: 80, name: http, protocol: HTTPX}]\n";
    std::fs::write(&file, text).unwrap();
    let out = run(&["check", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&out.stdout);
    for part in [
        "spec.resolutions: unknown field",
        "spec.ports[0].protocol: unsupported protocol: HTTPX",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert_eq!(out.status.code(), Some(1), "{said}");
}

#[test]
fn a_pipe_whose_reader_left_ends_nothing_with_noise() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let script = "\"$@\" | true; exit ${PIPESTATUS[0]}";
    let piped = |args: &[&str]| {
        let mut bash = Command::new("bash");
        bash.args(["-c", script, "bash", env!("CARGO_BIN_EXE_egress-agent")]);
        bash.args(args).output().unwrap()
    };
    fs::write(
        dir.path().join("a.yaml"),
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
    )
    .unwrap();
    for (args, code) in [
        (&["check", folder][..], 0),
        (&["explain", "--rules", folder, "a.example:80"], 1),
        (&["--help"], 0),
        (
            &[
                "status",
                "--admin-socket",
                "/nonexistent",
                "--bpf-dir",
                folder,
            ],
            69,
        ),
    ] {
        let out = piped(args);
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    }
}

#[test]
fn check_strict_counts_fields_about_egress_of_valid_objects() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    let check = |kind: &str, spec: &str| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{{spec}}}\n"
        );
        fs::write(&file, text).unwrap();
        let out = run(&["check", "--strict", file.to_str().unwrap()]);
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    let (code, said) = check(
        "Sidecar",
        "ingress: [{port: {number: 80, protocol: HTTP, name: h}}]",
    );
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("note: spec.ingress: has no effect"), "{said}");
    let hosts = "hosts: [a.example], ports: [{number: 80, name: h, protocol: HTTP}]";
    let endpoints = "resolution: STATIC, endpoints: [{address: 192.0.2.1, locality: a}]";
    let (code, said) = check("ServiceEntry", &format!("{hosts}, {endpoints}"));
    assert_eq!(code, Some(0), "{said}");
    let note = "note: spec.endpoints[0].locality: has no effect";
    assert!(said.contains(note), "{said}");
    let budget = "{retryBudget: {budgetInterval: 10s}}";
    let (code, said) = check(
        "DestinationRule",
        &format!("host: a.example, trafficPolicy: {budget}"),
    );
    assert_eq!(code, Some(2), "{said}");
    let warning = "spec.trafficPolicy.retryBudget.budgetInterval: is not carried out";
    assert!(said.contains(warning), "{said}");
    let keepalive = "{http: {http2KeepAlive: {interval: 3s}}}";
    let rule = format!("host: a.example, trafficPolicy: {{connectionPool: {keepalive}}}");
    let (code, said) = check("DestinationRule", &rule);
    assert_eq!(code, Some(1), "{said}");
    assert!(!said.contains("not carried out"), "{said}");
}
