//! A client of the agent's metrics and health: HTTP by hand, so that a test can break its rules, and a reader of
//! Prometheus' text format.
//!
//! Owns the requests and the samples. The tests judge them.

use crate::agent;
use crate::netns::NetNs;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::env;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than any answer takes.
const LIMIT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub code: u16,
    /// The head, with its line breaks.
    pub head: String,
    /// The body.
    pub body: String,
    /// From the connect to the last byte.
    pub took: Duration,
}

/// Sends these bytes to `at` in a namespace, and returns everything that comes back until the other side closes.
pub fn exchange(netns: &NetNs, at: SocketAddr, request: &[u8]) -> Result<String> {
    netns.run(|| {
        let mut stream = TcpStream::connect_timeout(&at, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(request)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    })?
}

/// The answer to a request with these bytes.
pub fn answer(netns: &NetNs, at: SocketAddr, request: &[u8]) -> Result<Answer> {
    let begin = Instant::now();
    let text = exchange(netns, at, request)?;
    let took = begin.elapsed();
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP response")?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok(Answer {
        code: code.with_context(|| format!("no status: {head}"))?,
        head: head.to_owned(),
        body: body.to_owned(),
        took,
    })
}

/// GET of a path.
pub fn get(netns: &NetNs, at: SocketAddr, path: &str) -> Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n");
    answer(netns, at, request.as_bytes())
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its name, with the suffix of a histogram's.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// The samples of one scrape.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// The text.
    pub text: String,
    /// In its order.
    pub samples: Vec<Sample>,
}

impl Scrape {
    /// Scrapes an agent.
    pub fn of(netns: &NetNs, at: SocketAddr) -> Result<Self> {
        let answer = get(netns, at, "/metrics")?;
        if answer.code != 200 {
            bail!("/metrics: {}", answer.head);
        }
        Self::read(&answer.body)
    }

    /// Reads the text. Label values may contain no quotes.
    pub fn read(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).with_context(|| line.to_owned()));
        Ok(Self {
            text: text.to_owned(),
            samples: samples.collect::<Result<_>>()?,
        })
    }

    /// The sum of the samples with this name that have these labels among theirs; `None` if there is no such sample.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &&Sample| {
            let fits = |(label, value): &(&str, &str)| {
                sample.labels.get(*label).is_some_and(|v| v == value)
            };
            sample.name == name && labels.iter().all(fits)
        };
        let mut found = self.samples.iter().filter(has).peekable();
        found.peek()?;
        Some(found.map(|sample| sample.value).sum())
    }

    /// The names of the TYPE lines, in their order.
    pub fn types(&self) -> Vec<&str> {
        let lines = self.text.lines();
        lines
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let mut parsed = BTreeMap::new();
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        let (label, value) = label.split_once("=\"")?;
        parsed.insert(label.to_owned(), value.trim_end_matches('"').to_owned());
    }
    Some(Sample {
        name: name.to_owned(),
        labels: parsed,
        value: value.parse().ok()?,
    })
}

/// Prometheus' checker: `$EGRESS_PROMTOOL`, else what `cargo xtask test` installed.
pub fn promtool() -> Result<PathBuf> {
    match env::var_os("EGRESS_PROMTOOL") {
        Some(path) => Ok(path.into()),
        None => agent::beside("promtool"),
    }
}

/// Runs promtool with this input. Fails with its output if it finds something.
pub fn promtool_check(arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(promtool()?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run promtool")?;
    let mut stdin = child.stdin.take().context("promtool has a pipe")?;
    let input = input.to_owned();
    // In a thread, because promtool may write before it has read everything.
    let feed = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    // It need not read its input.
    drop(feed.join());
    let said = [output.stdout, output.stderr].map(|o| String::from_utf8_lossy(&o).into_owned());
    let said = said.concat();
    // `check metrics` ends with 3 for findings of style.
    if !output.status.success() {
        bail!("promtool {arguments:?}: {}: {said}", output.status);
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text =
            "# HELP a A.\n# TYPE a gauge\na{x=\"1\",y=\"b c\"} 2\na{x=\"2\",y=\"\"} 3\nb 1.5\n";
        let scrape = Scrape::read(text).unwrap();
        assert_eq!(scrape.types(), ["a"]);
        assert_eq!(scrape.value("a", &[]), Some(5.0));
        assert_eq!(scrape.value("a", &[("y", "b c")]), Some(2.0));
        assert_eq!(scrape.value("a", &[("y", "c")]), None);
        assert_eq!(scrape.value("b", &[]), Some(1.5));
    }
}
