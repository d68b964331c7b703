//! curl: HTTP/1.1, HTTP/2 with prior knowledge, both upgrades, and TLS.

use crate::setting::{lab, streams, www};
use egress_tests::Lab;

/// What curl printed of the response's head and body, and the version and status of the last response.
struct Got {
    text: String,
    exit: i32,
    version: String,
    stderr: String,
}

fn ask(lab: &Lab, arguments: &[&str]) -> Got {
    let authority = lab.authority().path().display().to_string();
    let mut all = vec!["-q", "-sS", "-i", "-m", "10", "--cacert", &authority];
    all.extend(["-w", "\n%{http_version} %{http_code}"]);
    all.extend(arguments);
    let ended = lab.run("curl", &all).unwrap();
    let (text, version) = ended.stdout.rsplit_once('\n').unwrap();
    Got {
        text: text.to_owned(),
        exit: ended.exit,
        version: version.to_owned(),
        stderr: ended.stderr,
    }
}

#[test]
fn curl() {
    let lab = lab();
    www(&lab);
    let _peers = streams(&lab);
    let headers = "http://www4.clients.example/headers";

    // An upgrade to h2c is not taken: the response is one of HTTP/1.1, and the origin sees no offer.
    for (option, version) in [
        ("--http1.1", "1.1"),
        ("--http2-prior-knowledge", "2"),
        ("--http2", "1.1"),
    ] {
        for url in [headers, "http://www6.clients.example/headers"] {
            let got = ask(&lab, &[option, url]);
            assert_eq!(got.version, format!("{version} 200"), "{}", got.text);
            assert!(got.text.contains("x-answer: by the rule"), "{}", got.text);
            assert!(got.text.contains("\"X-Gate\": \"passed\""), "{}", got.text);
            assert!(!got.text.contains("Upgrade"), "{}", got.text);
        }
        let body = "x".repeat(100_000);
        let got = ask(
            &lab,
            &[option, "-d", &body, "http://www4.clients.example/post"],
        );
        assert_eq!(got.version, format!("{version} 200"), "{}", got.text);
        let got = ask(&lab, &[option, "http://www4.clients.example/delay/5"]);
        assert_eq!(got.version, format!("{version} 504"), "{}", got.text);
        assert!(
            got.text.ends_with("upstream request timeout"),
            "{}",
            got.text
        );
        let flaky = format!("http://www4.clients.example/flaky/2?{option}");
        let got = ask(&lab, &[option, &flaky]);
        assert_eq!(got.version, format!("{version} 200"), "{}", got.text);
        let got = ask(&lab, &[option, "http://other.clients.example/headers"]);
        assert_eq!(got.version, format!("{version} 502"), "{}", got.text);
        let got = ask(&lab, &[option, "http://bystander.example/"]);
        assert_eq!(
            (got.exit, got.version.as_str()),
            (7, "0 000"),
            "{}",
            got.stderr
        );
    }

    let upgrade = [
        "-H",
        "connection: Upgrade",
        "-H",
        "upgrade: websocket",
        "-H",
        "sec-websocket-version: 13",
        "-H",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "--http1.1",
    ];
    // curl waits for the end, and so does the server: the time limit ends it.
    let got = ask(
        &lab,
        &[
            &upgrade[..],
            &["-m", "1", "http://streams4.clients.example/ws"],
        ]
        .concat(),
    );
    assert!(
        got.text.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{}",
        got.text
    );
    assert!(
        got.text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "{}",
        got.text
    );
    let got = ask(
        &lab,
        &[&upgrade[..], &["http://neighbour.clients.example/ws"]].concat(),
    );
    assert_eq!(got.version, "1.1 502", "{}", got.text);

    let got = ask(&lab, &["https://www4.clients.example/headers"]);
    assert_eq!(got.version, "1.1 200", "{}", got.text);
    assert!(
        !got.text.contains("X-Gate"),
        "no proxy reads TLS: {}",
        got.text
    );
    let got = ask(&lab, &["https://other.clients.example/"]);
    assert_eq!(
        (got.exit, got.version.as_str()),
        (35, "0 000"),
        "{}",
        got.stderr
    );
    let got = ask(&lab, &["https://bystander.example/"]);
    assert_eq!(
        (got.exit, got.version.as_str()),
        (7, "0 000"),
        "{}",
        got.stderr
    );
}
