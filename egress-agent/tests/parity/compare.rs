//! What a case showed on each side, and where the two differ.
//!
//! Owns the list of what is not compared as it is: [`NORMALISED`].

use crate::case::Case;
use crate::client::Got;
use crate::log_line::Lines;
use crate::message::Message;
use crate::origin::Seen;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Headers of which only the presence is compared, each with the reason.
const NORMALISED: [(&str, &str); 9] = [
    ("date", "the time"),
    ("x-envoy-upstream-service-time", "a time that was measured"),
    ("x-request-id", "random, unless the client sent one"),
    ("x-b3-traceid", "random, unless the client sent one"),
    ("x-b3-spanid", "random"),
    ("x-b3-parentspanid", "random"),
    ("traceparent", "random"),
    (
        "x-forwarded-for",
        "ends with the proxy's address in the copy for a mirror",
    ),
    (
        "x-envoy-expected-rq-timeout-ms",
        "compared in steps of 50 ms: the time left",
    ),
];

/// What one side showed. Each aspect has a name, and says its content as text.
pub struct Shown {
    aspects: BTreeMap<String, String>,
    /// What is outside its bounds, on this side alone.
    pub out_of_bounds: Vec<String>,
}

/// Everything about one run of a case on one side.
pub struct Run<'a> {
    pub case: &'a Case,
    pub got: &'a Got,
    pub seen: &'a [Seen],
    /// Of the access log.
    pub lines: &'a [Lines],
    /// The addresses of this side, each with the word that stands for it.
    pub names: &'a [(SocketAddr, String)],
}

impl Shown {
    pub fn of(run: &Run<'_>) -> Self {
        let mut shown = Self {
            aspects: BTreeMap::new(),
            out_of_bounds: vec![],
        };
        shown.client(run);
        shown.origins(run);
        shown.lines(run);
        shown.bounds(run);
        shown
    }

    /// The aspects in which two sides differ, each with both contents.
    pub fn differences<'a>(&'a self, other: &'a Self) -> BTreeMap<&'a str, (&'a str, &'a str)> {
        let names: BTreeSet<_> = self.aspects.keys().chain(other.aspects.keys()).collect();
        names
            .into_iter()
            .map(|name| {
                let of = |side: &'a Self| side.aspects.get(name).map_or("-", String::as_str);
                (name.as_str(), (of(self), of(other)))
            })
            .filter(|(_, (a, b))| a != b)
            .collect()
    }

    fn say(&mut self, aspect: String, content: String) {
        self.aspects.insert(aspect, content);
    }

    fn client(&mut self, run: &Run<'_>) {
        let got = run.got;
        let starts: Vec<_> = got.answers.iter().map(|one| one.start.as_str()).collect();
        self.say("status".into(), starts.join(" | "));
        for (number, answer) in got.answers.iter().enumerate() {
            self.message(&numbered("response", number), answer, run);
        }
        // Envoy says that it closes, and waits a second for the client to do so.
        let says = got
            .answers
            .last()
            .and_then(|last| last.header("connection"));
        let closes = got.closed || says == Some("close");
        self.say(
            "connection".into(),
            if closes { "closed" } else { "open" }.into(),
        );
        if !got.rest.is_empty() {
            self.say("unparsed".into(), text(&got.rest));
        }
    }

    fn origins(&mut self, run: &Run<'_>) {
        // Services do not wait for each other, so only the order within each one counts.
        let mut seen: Vec<_> = run.seen.iter().collect();
        seen.sort_by_key(|seen| seen.endpoint.split('.').next());
        let attempts: Vec<_> = seen
            .iter()
            .map(|seen| {
                format!(
                    "{} on {}.{}",
                    seen.message.start, seen.endpoint, seen.connection
                )
            })
            .collect();
        self.say("attempts".into(), attempts.join(" | "));
        for (number, seen) in seen.into_iter().enumerate() {
            let name = numbered("request", number);
            self.message(&name, &seen.message, run);
            if !seen.after.is_empty() {
                self.say(format!("{name} after"), text(&seen.after));
            }
        }
    }

    fn message(&mut self, name: &str, message: &Message, run: &Run<'_>) {
        let mut fields: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (key, value) in &message.headers {
            let value = normal(key, value, run);
            fields.entry(key).or_default().push(value);
        }
        for (key, values) in fields {
            self.say(format!("{name} header {key}"), values.join(" + "));
        }
        self.say(format!("{name} body"), text(&message.body));
        let trailers: Vec<_> = message
            .trailers
            .iter()
            .map(|(key, value)| format!("{key}: {value}"))
            .collect();
        self.say(format!("{name} trailers"), trailers.join(" + "));
        self.say(format!("{name} whole"), message.whole.to_string());
    }

    fn lines(&mut self, run: &Run<'_>) {
        let mut lines: Vec<_> = run.lines.iter().collect();
        if run.case.http2 {
            // Streams end in no fixed order.
            lines.sort_by_key(|lines| lines.behind_time());
        }
        let flags: Vec<_> = lines.iter().map(|lines| lines.flags()).collect();
        self.say("flags".into(), flags.join(" "));
        for (number, lines) in lines.into_iter().enumerate() {
            for (field, value) in lines.shown(run.names) {
                if field != "response_flags" {
                    self.say(format!("{} {field}", numbered("log", number)), value);
                }
            }
        }
    }

    fn bounds(&mut self, run: &Run<'_>) {
        let took = u64::try_from(run.got.took.as_millis()).unwrap();
        if let Some([least, most]) = run.case.took
            && !(least..=most).contains(&took)
        {
            let what = format!("the responses took {took} ms, not {least} to {most}");
            self.out_of_bounds.push(what);
        }
        let times: Vec<_> = run.seen.iter().map(|seen| seen.at).collect();
        for (number, (pair, [least, most])) in times.windows(2).zip(&run.case.gaps).enumerate() {
            let gap = u64::try_from((pair[1] - pair[0]).as_millis()).unwrap();
            if !(least..=most).contains(&&gap) {
                let what = format!(
                    "attempt {} came after {gap} ms, not {least} to {most}",
                    number + 2
                );
                self.out_of_bounds.push(what);
            }
        }
    }
}

/// The first message of its kind has no number, because most cases have one.
fn numbered(what: &str, number: usize) -> String {
    match number {
        0 => what.to_owned(),
        other => format!("{what} {}", other + 1),
    }
}

fn normal(key: &str, value: &str, run: &Run<'_>) -> String {
    let sent = |value: &str| value.len() > 6 && format!("{:?}", run.case.send).contains(value);
    if key == "x-envoy-expected-rq-timeout-ms" {
        return match value.parse::<u64>() {
            Ok(ms) => format!("<about {}>", ms.div_ceil(100) * 100),
            Err(_) => value.to_owned(),
        };
    }
    if NORMALISED.iter().any(|(name, _)| *name == key) && !sent(value) {
        return "<present>".into();
    }
    if key == "b3" {
        let random =
            |part: &str| part.len() >= 16 && !format!("{:?}", run.case.send).contains(part);
        let parts = value.split('-');
        let shown: Vec<_> = parts
            .map(|part| if random(part) { "<random>" } else { part })
            .collect();
        return shown.join("-");
    }
    let mut value = value.to_owned();
    for (address, word) in run.names {
        value = value.replace(&address.to_string(), word);
    }
    value
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if text.len() < 400 {
        return text.into_owned();
    }
    let start: String = text.chars().take(60).collect();
    format!(
        "{start}... {} bytes, crc {:08x}",
        bytes.len(),
        crc32fast::hash(bytes)
    )
}
