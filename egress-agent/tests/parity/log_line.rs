//! Lines of the access log on both sides, as text and as JSON, by field and without what differs between two runs.

use crate::support::destination;
use egress_agent::proxy::AccessRecord;
use egress_core::access_log::AccessFormat;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

/// The fields of Istio's text format, in its order, by their names in JSON.
const FIELDS: [&str; 24] = [
    "start_time",
    "method",
    "path",
    "protocol",
    "response_code",
    "response_flags",
    "response_code_details",
    "connection_termination_details",
    "upstream_transport_failure_reason",
    "bytes_received",
    "bytes_sent",
    "duration",
    "upstream_service_time",
    "x_forwarded_for",
    "user_agent",
    "request_id",
    "authority",
    "upstream_host",
    "upstream_cluster",
    "upstream_local_address",
    "downstream_local_address",
    "downstream_remote_address",
    "requested_server_name",
    "route_name",
];

/// Fields of which only the shape is compared: times, addresses that the system chose, and random numbers.
const SHAPES: [&str; 7] = [
    "start_time",
    "duration",
    "upstream_service_time",
    "request_id",
    "upstream_local_address",
    "downstream_local_address",
    "downstream_remote_address",
];

/// The two lines about one request.
#[derive(Clone, Debug)]
pub struct Lines {
    pub text: String,
    pub json: String,
}

impl Lines {
    /// The gate's.
    pub fn of(record: &AccessRecord, dialled: SocketAddr) -> Self {
        let origin = destination(&dialled.to_string());
        let entry = record.entry(&origin, SystemTime::now());
        let [text, json] = [AccessFormat::text(None), AccessFormat::json(None)]
            .map(|form| form.unwrap().line(&entry));
        Self {
            text: text.trim_end().to_owned(),
            json: json.trim_end().to_owned(),
        }
    }

    /// The line without its first field.
    pub fn behind_time(&self) -> &str {
        self.text.split_once(' ').unwrap().1
    }

    /// The flags of the line.
    pub fn flags(&self) -> String {
        self.fields().remove("response_flags").unwrap_or_default()
    }

    /// The fields, with the reason if both encodings do not tell the same.
    pub fn shown(&self, names: &[(SocketAddr, String)]) -> BTreeMap<&'static str, String> {
        let shaped = |fields: BTreeMap<&'static str, String>| -> BTreeMap<_, _> {
            let shaped = |(name, value)| (name, normal(name, value, names));
            fields.into_iter().map(shaped).collect()
        };
        let (text, json) = (shaped(self.fields()), shaped(self.of_json()));
        assert_eq!(text, json, "both encodings tell the same: {self:#?}");
        text
    }

    fn fields(&self) -> BTreeMap<&'static str, String> {
        let values = split(&self.text);
        assert_eq!(values.len(), FIELDS.len(), "{}", self.text);
        FIELDS.into_iter().zip(values).collect()
    }

    fn of_json(&self) -> BTreeMap<&'static str, String> {
        let read: Value = serde_json::from_str(&self.json).unwrap();
        let fields = read.as_object().unwrap();
        let names: Vec<_> = fields.keys().map(String::as_str).collect();
        let mut expected = FIELDS;
        expected.sort_unstable();
        assert_eq!(names, expected);
        let of = |name| match &fields[name] {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        FIELDS.into_iter().map(|name| (name, of(name))).collect()
    }
}

/// The values of a line of text: words, of which some stand in brackets or quotes. The quotes of the request have three.
fn split(line: &str) -> Vec<String> {
    let mut values = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (value, after) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted.split_once("\" ").unwrap()
        } else {
            rest.split_once(' ').unwrap_or((rest, ""))
        };
        if values.len() == 1 {
            let (method, path_and_protocol) = value.split_once(' ').unwrap();
            let (path, protocol) = path_and_protocol.rsplit_once(' ').unwrap();
            values.extend([method, path, protocol].map(str::to_owned));
        } else {
            let bare = value.strip_prefix('[').and_then(|v| v.strip_suffix(']'));
            values.push(
                bare.filter(|_| values.is_empty())
                    .unwrap_or(value)
                    .to_owned(),
            );
        }
        rest = after;
    }
    values
}

fn normal(name: &str, value: String, names: &[(SocketAddr, String)]) -> String {
    if value == "-" {
        return value;
    }
    if name == "request_id" && value.len() != 36 {
        return value;
    }
    if SHAPES.contains(&name) {
        return if ["duration", "upstream_service_time"].contains(&name) {
            value.parse::<u64>().unwrap();
            "<number>".into()
        } else {
            let digit = |c: char| if c.is_ascii_hexdigit() { '0' } else { c };
            let shape: String = value.chars().map(digit).collect();
            match value.parse::<SocketAddr>() {
                Ok(_) => "<address>".into(),
                Err(_) => shape,
            }
        };
    }
    if name == "upstream_cluster" {
        return cluster(&value);
    }
    let mut value = value;
    for (address, word) in names {
        value = value.replace(&address.to_string(), word);
    }
    value
}

/// Istio's name of a cluster, for that of the Envoy here: `7/a|v1`.
fn cluster(value: &str) -> String {
    let Some((_, name)) = value.split_once('/') else {
        return value.to_owned();
    };
    let (host, subset) = name.split_once('|').unwrap_or((name, ""));
    format!("outbound|80|{subset}|{host}.example")
}
