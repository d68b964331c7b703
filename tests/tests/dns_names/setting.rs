//! The lab of this suite, and its clients.

use egress_tests::client::{self, Finished};
use egress_tests::place::Place;
use egress_tests::{Lab, LabOptions};
use serde_json::Value;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Response codes (RFC 1035 section 4.1.1).
pub const NO_ERROR: u64 = 0;
pub const SERVER_FAILURE: u64 = 2;
pub const REFUSED: u64 = 5;

/// Names below `*.wild.example`, TCP at port 7.
pub const WILD: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ['*.wild.example']
  ports: [{number: 7, name: tcp, protocol: TCP}]
";

pub fn lab(flags: &[&str]) -> Lab {
    let all = [&["--dns-intercept=auto"], flags].concat();
    Lab::start_with(LabOptions::flags(&all)).unwrap()
}

pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

/// Runs a Python client.
pub fn python(place: &Place<'_>, name: &str, arguments: &[&str]) -> Finished {
    let mut command = place.command("python3").unwrap();
    command.arg(script(name)).args(arguments);
    client::run(command, Duration::from_mins(3)).unwrap()
}

/// The lines of JSON that a client prints.
pub fn lines(ended: &Finished) -> Vec<Value> {
    let lines = ended.stdout.lines();
    let lines = lines.map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    assert!(!lines.is_empty(), "{}", ended.stderr);
    lines
}

/// The answer to a query of a client in `place`.
pub fn ask(place: &Place<'_>, way: &str, name: &str, server: &str) -> Value {
    ask_all(place, way, &[name], server).remove(0)
}

/// The answers to queries of one client, one after another.
pub fn ask_all<S: AsRef<str>>(
    place: &Place<'_>,
    way: &str,
    names: &[S],
    server: &str,
) -> Vec<Value> {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    lines(&python(place, "dns.py", &[way, &names.join(","), server]))
}

pub fn addresses(answer: &Value) -> Vec<IpAddr> {
    let list = answer["addresses"].as_array().unwrap().iter();
    list.map(|ip| ip.as_str().unwrap().parse().unwrap())
        .collect()
}
