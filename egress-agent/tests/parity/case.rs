//! What a case file says: rules of the gate, the routes of Envoy that mean the same, what a client sends and what
//! origins do.

use serde::Deserialize;
use serde_yaml::{Mapping, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// One case. Without rules, `a.example` is a plain service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// `spec.http` of a `VirtualService` for `a.example`.
    #[serde(default)]
    pub http: Value,
    /// The spec of a `DestinationRule` for `a.example`.
    #[serde(default)]
    pub rule: Value,
    /// Fields of the `ServiceEntry` of `a.example`.
    #[serde(default)]
    pub entry: Mapping,
    /// Fields of its port.
    #[serde(default)]
    pub port: Mapping,
    /// Envoy's routes of `a.example`, where `route` has Istio's defaults for what it does not say.
    #[serde(default)]
    pub routes: Value,
    /// Fields of Envoy's clusters, by origin; `of` and `endpoints` make a subset of another origin.
    #[serde(default)]
    pub clusters: BTreeMap<String, Mapping>,
    /// Fields of Envoy's connection manager.
    #[serde(default)]
    pub manager: Mapping,
    /// What each origin does. A service stands for each: `a` is `a.example`.
    #[serde(default = "one_origin")]
    pub origins: BTreeMap<String, Vec<Endpoint>>,
    pub send: Steps,
    /// The client speaks HTTP/2 with prior knowledge.
    #[serde(default)]
    pub http2: bool,
    /// How many final responses the client waits for. Without it, one for each request of `send` that is whole.
    pub answers: Option<usize>,
    /// Least and most time in ms until the last response, on both sides. The least is 10 ms or more under the time that the
    /// rule says: Envoy's timers begin at the time that its event loop noted last, by a clock that moves once in each
    /// tick of the kernel (libevent, `event_base_gettimeofday_cached`, `CLOCK_MONOTONIC_COARSE`).
    pub took: Option<[u64; 2]>,
    /// Least and most time in ms between one attempt and the next, on both sides.
    #[serde(default)]
    pub gaps: Vec<[u64; 2]>,
    /// How long in ms the origins are watched after the last response.
    #[serde(default)]
    pub settle: u64,
}

impl Case {
    /// Whether both sides must agree about times: those that are bounded, or a timeout.
    pub fn is_timed(&self) -> bool {
        let rules = format!("{:?}{:?}{:?}", self.http, self.rule, self.send).to_lowercase();
        self.took.is_some() || !self.gaps.is_empty() || rules.contains("timeout")
    }
}

/// An endpoint of an origin.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Endpoint {
    /// `refuse`: nothing listens. `silent`: connections are never accepted.
    Word(String),
    /// What it does with each request, in turn. The last one is for all others.
    Turns(Vec<Steps>),
    Labelled {
        labels: Mapping,
        turns: Vec<Steps>,
    },
}

impl Endpoint {
    pub fn turns(&self) -> &[Steps] {
        match self {
            Self::Word(_) => &[],
            Self::Turns(turns) | Self::Labelled { turns, .. } => turns,
        }
    }
}

fn one_origin() -> BTreeMap<String, Vec<Endpoint>> {
    BTreeMap::from([("a".to_owned(), vec![Endpoint::Turns(vec![])])])
}

/// One step or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Steps {
    One(Step),
    Many(Vec<Step>),
}

impl Steps {
    pub fn all(&self) -> &[Step] {
        match self {
            Self::One(step) => std::slice::from_ref(step),
            Self::Many(steps) => steps,
        }
    }
}

/// A step of a client or an origin.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Step {
    Do(Do),
    /// A word, or a message in short form: see [`request`] and [`answer`].
    Text(String),
    /// A status with the body `ok`.
    Status(u16),
}

/// A step with a parameter.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Do {
    /// These bytes.
    Raw(String),
    /// A text so many times.
    Fill(String, usize),
    /// Milliseconds.
    Wait(u64),
    /// A client: until so many final responses have arrived.
    Answer(usize),
    /// A client: until so many bytes have arrived.
    Bytes(usize),
    /// A client over HTTP/1.1: until the origins saw so many requests, with so many bytes of body in the last of them.
    Seen(usize, usize),
}

/// A request of a client: `GET /path` alone, or lines (`\n` ends them), after an empty line the body. Without a version,
/// the line of the host is added.
pub fn request(text: &str) -> Vec<u8> {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let rest = rest.replace('\n', "\r\n");
    let head = if first.contains(" HTTP/") {
        format!("{first}\r\n")
    } else {
        format!("{first} HTTP/1.1\r\nhost: a.example\r\n")
    };
    ended(head + &rest)
}

/// A response of an origin: `200 OK` and lines, after an empty line the body. Without framing, `content-length` is
/// added.
pub fn answer(text: &str) -> Vec<u8> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end(), ""));
    let mut head = head.replace('\n', "\r\n");
    let framed = ["content-length:", "transfer-encoding:"];
    let none = ["100", "101", "102", "103", "204", "304"];
    if !framed.iter().any(|name| head.contains(name)) && !none.iter().any(|s| head.starts_with(s)) {
        write!(head, "\r\ncontent-length: {}", body.len()).unwrap();
    }
    format!("HTTP/1.1 {head}\r\n\r\n{body}").into_bytes()
}

fn ended(mut text: String) -> Vec<u8> {
    if !text.contains("\r\n\r\n") {
        text.truncate(text.trim_end().len());
        text += "\r\n\r\n";
    }
    text.into_bytes()
}

/// All cases, with the name of their file.
pub fn all(folder: &Path) -> Vec<(String, Case)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let group = file.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let read: Vec<Case> = serde_yaml::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        cases.extend(read.into_iter().map(|case| (group.clone(), case)));
    }
    cases
}
