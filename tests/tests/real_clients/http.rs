//! HTTP and TLS by Python, Node, Java and Go.

use crate::call::{Kind, calls, judge};
use crate::setting::{self, lab, lines, script, www};
use egress_tests::{Lab, client};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LONG: Duration = Duration::from_mins(1);

/// A kind over HTTP/1.1 that can do everything.
const fn kind(word: &'static str) -> Kind {
    Kind {
        word,
        sets_host: true,
        tls: true,
        version: "1.1",
    }
}

/// Runs a program with the calls of several kinds and judges its lines.
fn run(lab: &Lab, program: impl AsRef<OsStr>, first: &[&OsStr], kinds: &[Kind]) {
    let mut command: Command = lab.client_place().command(program).unwrap();
    let authority = lab.authority().path();
    command
        .args(first)
        .args(kinds.iter().flat_map(|kind| calls(*kind)))
        .env("SSL_CERT_FILE", authority)
        .env("REQUESTS_CA_BUNDLE", authority)
        .env("NODE_EXTRA_CA_CERTS", authority);
    let lines = lines(&client::run(command, LONG).unwrap());
    let mut rest = &lines[..];
    for kind in kinds {
        let (own, others) = rest.split_at(calls(*kind).len());
        judge(*kind, own);
        rest = others;
    }
}

#[test]
fn python() {
    let lab = lab();
    www(&lab);
    let two = Kind {
        tls: false,
        version: "2",
        ..kind("httpx2")
    };
    let kinds = [
        kind("urllib"),
        kind("requests"),
        kind("httpx"),
        kind("aiohttp"),
        two,
    ];
    run(
        &lab,
        setting::python(),
        &[script("client.py").as_os_str()],
        &kinds,
    );
}

#[test]
fn node() {
    let lab = lab();
    www(&lab);
    let two = Kind {
        tls: false,
        version: "2",
        ..kind("http2")
    };
    // fetch allows no other Host.
    let fetch = Kind {
        sets_host: false,
        ..kind("fetch")
    };
    let first = script("client.mjs");
    run(
        &lab,
        "node",
        &[first.as_os_str()],
        &[kind("http"), two, fetch],
    );
}

#[test]
fn java() {
    let lab = lab();
    www(&lab);
    let dir = tempfile::tempdir().unwrap();
    let (classes, keys) = (dir.path(), dir.path().join("authority.p12"));
    done(
        Command::new("javac")
            .arg("-d")
            .arg(classes)
            .arg(script("Client.java")),
    );
    done(
        Command::new("keytool")
            .args([
                "-importcert",
                "-noprompt",
                "-alias",
                "lab",
                "-storetype",
                "PKCS12",
            ])
            .args(["-storepass", "password", "-keystore"])
            .arg(&keys)
            .arg("-file")
            .arg(lab.authority().path()),
    );
    let store = format!("-Djavax.net.ssl.trustStore={}", keys.display());
    let first = [
        OsStr::new("-Djavax.net.ssl.trustStorePassword=password"),
        OsStr::new("-Djdk.httpclient.allowRestrictedHeaders=host"),
        OsStr::new(&store),
        OsStr::new("-cp"),
        classes.as_os_str(),
        OsStr::new("Client"),
    ];
    // Without TLS, its HTTP/2 asks for an upgrade to h2c, which a sidecar does not take.
    run(&lab, "java", &first, &[kind("java"), kind("java2")]);
}

#[test]
fn go() {
    let lab = lab();
    www(&lab);
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("client");
    done(
        Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(script("client.go"))
            .env("GOFLAGS", "-mod=mod")
            .env("GOCACHE", cache("go")),
    );
    run(&lab, program, &[], &[kind("go")]);
}

/// A folder that later runs find again.
fn cache(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
}
