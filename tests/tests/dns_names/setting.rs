//! The lab of this suite, and its clients.

use egress_tests::client::Finished;
use egress_tests::place::Place;
use egress_tests::{Lab, LabOptions, queries};
use serde_json::Value;
use std::net::IpAddr;

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

/// Runs a Python client.
pub fn python(place: &Place<'_>, name: &str, arguments: &[&str]) -> Finished {
    queries::python(place, name, arguments).unwrap()
}

/// The lines of JSON that a client prints.
pub fn lines(ended: &Finished) -> Vec<Value> {
    queries::lines(ended).unwrap()
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
    queries::ask(place, way, &names.join(","), &[server]).unwrap()
}

pub fn addresses(answer: &Value) -> Vec<IpAddr> {
    queries::addresses(answer).unwrap()
}
