//! The calls that every HTTP client makes, and what it must get.

use serde_json::Value;

/// Denied calls end long before any timeout.
const AT_ONCE: u64 = 2000;

/// The words of a client's error if connect() fails with `EPERM`.
const DENIED: [&str; 2] = ["not permitted", "EPERM"];

/// A kind of client: the word that its program knows, and what it can do.
#[derive(Clone, Copy)]
pub struct Kind {
    pub word: &'static str,
    /// Whether it sends another `Host` than that of the URL.
    pub sets_host: bool,
    /// Whether it makes TLS connections to the lab's hosts.
    pub tls: bool,
    /// What its version of HTTP over plain text ends with.
    pub version: &'static str,
}

/// The calls of a client, as arguments of its program.
pub fn calls(kind: Kind) -> Vec<String> {
    let word = kind.word;
    let mut calls = vec![
        format!("get {word} GET http://www4.clients.example/headers -"),
        format!("get6 {word} GET http://www6.clients.example/headers -"),
        format!("post {word} POST http://www4.clients.example/post -"),
        format!("timeout {word} GET http://www4.clients.example/delay/5 -"),
        format!("retry {word} GET http://www4.clients.example/flaky/2?{word} -"),
        format!("rewrite {word} GET http://www4.clients.example/old/get -"),
        format!("status {word} GET http://www4.clients.example/status/418 -"),
        format!("other {word} GET http://other.clients.example/headers -"),
        format!("unlisted {word} GET http://bystander.example/ -"),
    ];
    if kind.sets_host {
        calls.push(format!(
            "forged {word} GET http://www4.clients.example/ bystander.example"
        ));
    }
    if kind.tls {
        calls.extend([
            format!("tls {word} GET https://www4.clients.example/headers -"),
            format!("tls6 {word} GET https://www6.clients.example/headers -"),
            format!("tls-other {word} GET https://other.clients.example/ -"),
            format!("tls-unlisted {word} GET https://bystander.example/ -"),
        ]);
    }
    calls
}

/// Compares the lines of a client with what it must get.
pub fn judge(kind: Kind, lines: &[Value]) {
    assert_eq!(lines.len(), calls(kind).len(), "{lines:?}");
    for line in lines {
        let name = line["name"].as_str().unwrap();
        let ok = one(name, kind, line);
        assert!(ok, "{}: {line}", kind.word);
        if ["other", "unlisted", "forged"].contains(&name) || name.starts_with("tls-") {
            assert!(line["ms"].as_u64().unwrap() < AT_ONCE, "{line}");
        }
    }
}

fn one(name: &str, kind: Kind, line: &Value) -> bool {
    let status = line["status"].as_u64().unwrap();
    let text = line["text"].as_str().unwrap();
    let by_rule = line["answer"] == "by the rule";
    let version = line["version"].as_str().unwrap().replace('_', ".");
    match name {
        "get" | "get6" => {
            let version = version.ends_with(kind.version);
            let passed = text.contains("\"X-Gate\": \"passed\"");
            status == 200 && by_rule && version && passed
        }
        "post" => status == 200 && by_rule && text.contains("xxxxxx"),
        "timeout" => status == 504 && text == "upstream request timeout",
        "retry" => status == 200 && text.contains("\"X-Envoy-Attempt-Count\": \"3\""),
        "rewrite" => status == 200 && text.contains("\"X-Envoy-Original-Path\": \"/old/get\""),
        "status" => status == 418,
        // Another name at a listed address.
        "other" | "forged" => status == 502 && text.is_empty(),
        "unlisted" | "tls-unlisted" => {
            status == 0 && DENIED.iter().any(|words| text.contains(words))
        }
        "tls" | "tls6" => status == 200 && !by_rule,
        "tls-other" => status == 0 && !DENIED.iter().any(|words| text.contains(words)),
        other => panic!("no call is named {other}"),
    }
}
