//! The lab of this suite: its hosts, their rules, and how a client's program is run.

use egress_tests::client::Finished;
use egress_tests::lab::{v4, v6};
use egress_tests::place::Place;
use egress_tests::{Background, Lab, LabOptions};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `www4` and `www6.clients.example`: HTTP at port 80, TLS at port 443. `other` is at the same address, unlisted.
const WWW: u8 = 131;
/// `streams4` and `streams6.clients.example`: WebSocket and events at port 80, gRPC at port 50051.
const STREAMS: u8 = 132;

const SOON: Duration = Duration::from_secs(20);

const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: www}
spec:
  hosts: [www4.clients.example, www6.clients.example]
  resolution: DNS
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: tls, protocol: TLS}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: www}
spec:
  hosts: [www4.clients.example]
  http: &http
  - match: [{uri: {prefix: /delay}}]
    timeout: 300ms
    route: [{destination: {host: www4.clients.example}}]
  - match: [{uri: {prefix: /flaky}}]
    retries: {attempts: 2, retryOn: '503'}
    route: [{destination: {host: www4.clients.example}}]
  - match: [{uri: {prefix: /old/}}]
    rewrite: {uri: /}
    route: [{destination: {host: www4.clients.example}}]
  - headers:
      request: {set: {x-gate: passed}}
      response: {set: {x-answer: by the rule}}
    route: [{destination: {host: www4.clients.example}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: www6}
spec:
  hosts: [www6.clients.example]
  http:
  - headers:
      request: {set: {x-gate: passed}}
      response: {set: {x-answer: by the rule}}
    route: [{destination: {host: www6.clients.example}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: streams}
spec:
  hosts: [streams4.clients.example, streams6.clients.example]
  resolution: DNS
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 50051, name: grpc, protocol: GRPC}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: streams}
spec:
  hosts: [streams4.clients.example, streams6.clients.example]
  http:
  - match: [{uri: {exact: /ws}}]
    timeout: 500ms
    headers: {response: {set: {x-answer: by the rule}}}
    route: [{destination: {host: streams4.clients.example}}]
  - match: [{uri: {prefix: /events}}, {uri: {prefix: /ack}}]
    route: [{destination: {host: streams4.clients.example}}]
  - match: [{uri: {exact: /test.Echo/Slow}}]
    timeout: 300ms
    route: [{destination: {host: streams4.clients.example}}]
  - match: [{uri: {exact: /test.Echo/Abort}}]
    fault: {abort: {percentage: {value: 100}, grpcStatus: RESOURCE_EXHAUSTED}}
    route: [{destination: {host: streams4.clients.example}}]
  - match: [{uri: {prefix: /test.Echo/}}]
    retries: {attempts: 2, retryOn: unavailable}
    headers: {request: {set: {x-gate: passed}}}
    route: [{destination: {host: streams4.clients.example}}]
";

pub fn lab() -> Lab {
    let lab = Lab::start_with(LabOptions::default()).unwrap();
    for (name, address) in [
        ("www4.clients.example", v4(WWW)),
        ("www6.clients.example", v6(WWW)),
        ("other.clients.example", v4(WWW)),
        ("streams4.clients.example", v4(STREAMS)),
        ("streams6.clients.example", v6(STREAMS)),
        ("neighbour.clients.example", v4(STREAMS)),
    ] {
        lab.dns.set(name, &[address], 30);
    }
    lab.rules("clients.yaml", RULES).unwrap();
    lab
}

/// The hosts `www` of [`lab`].
pub fn www(lab: &Lab) {
    let both = [v4(WWW), v6(WWW)];
    let names = ["www4.clients.example", "www6.clients.example"];
    let world = lab.world();
    let origin = world.https(&both, 443, lab.authority(), &names).unwrap();
    world.http_as(&origin, &both, 80).unwrap();
}

/// The hosts `streams` of [`lab`], which run until the value is dropped.
pub fn streams(lab: &Lab) -> Background {
    let place = Place {
        netns: Some(lab.outside()),
        ..Place::default()
    };
    let mut command = place.command(python()).unwrap();
    command
        .arg(script("peers.py"))
        .args([v4(STREAMS), v6(STREAMS)].map(|address| address.to_string()));
    let peers = Background::start(command).unwrap();
    peers
        .wait_line("the servers listen", SOON, |line| line == "ready")
        .unwrap();
    peers
}

pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

/// The Python with the clients' packages. `cargo xtask test` links it.
pub fn python() -> PathBuf {
    let link = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../clients-python");
    // Python finds its packages beside the path by which it is called.
    fs::read_link(link).expect("no clients: run cargo xtask test")
}

/// The lines that a client prints.
pub fn lines(ended: &Finished) -> Vec<Value> {
    assert_eq!(ended.exit, 0, "{}\n{}", ended.stdout, ended.stderr);
    let lines = ended.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
