//! Many bytes over one connection, in both families and at every segment size that a device may ask
//! for: packets over 64 KiB pass the gate as others do.
//!
//! A transfer that stands still fails. How long one takes, compared with none beside it, is a bench's.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use egress_tests::agent::beside;
use egress_tests::lab::{host, v4, v6};
use egress_tests::{Lab, client};

const MB: usize = 1 << 20;
/// Fault 20 took 11 s for 5 MB and 31 s for 50 MB.
const LIMIT: Duration = Duration::from_secs(20);

const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo}
spec:
  hosts: [echo.example]
  ports: [{number: 7, name: tcp-echo, protocol: TCP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: httpbin}
spec:
  hosts: [httpbin.org]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";

/// Runs the client inside the gate; the error is what it says.
fn bulk(lab: &Lab, way: &str, at: SocketAddr, bytes: usize) -> f64 {
    let mut command = lab.client_place().command(beside("bulk").unwrap()).unwrap();
    command.args([way, &at.to_string(), &bytes.to_string()]);
    let ended = client::run(command, LIMIT).unwrap();
    assert_eq!(ended.exit, 0, "{way} {at}: {}", ended.stderr);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    report["seconds"].as_f64().unwrap()
}

#[test]
fn bulk_within_a_workload_over_the_loopback_device() {
    let lab = Lab::start().unwrap();
    let home: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for at in home {
        for mtu in ["65536", "1500"] {
            lab.node().ip(&format!("link set lo mtu {mtu}")).unwrap();
            let seconds = bulk(&lab, "own", SocketAddr::new(at, 0), 100 * MB);
            println!("{at}, MTU {mtu}: 100 MB each way in {seconds:.2} s");
        }
    }
}

#[test]
fn bulk_straight_to_a_listed_host_at_every_segment_size() {
    let lab = Lab::start().unwrap();
    lab.rules("rules.yaml", RULES).unwrap();
    for size in [65_536, 131_072, 196_608] {
        let sizes = format!("gso_max_size {size} gro_max_size {size}");
        lab.node()
            .ip(&format!("link set dev out0 {sizes}"))
            .unwrap();
        for at in [v4(host::ECHO), v6(host::ECHO)] {
            let seconds = bulk(&lab, "echo", SocketAddr::new(at, 7), 50 * MB);
            println!("{at}, segments of {size}: 50 MB each way in {seconds:.2} s");
        }
    }
}

#[test]
fn bulk_uploads_and_downloads_through_the_proxy() {
    let lab = Lab::start().unwrap();
    lab.rules("rules.yaml", RULES).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![b'x'; 20 * MB]).unwrap();
    let body = format!("@{}", file.path().display());
    for family in ["-4", "-6"] {
        let up = lab
            .curl(&[
                family,
                "--data-binary",
                &body,
                "-H",
                "Expect:",
                "http://httpbin.org/post",
            ])
            .unwrap();
        assert_eq!(up.code, 200, "{family}: {} {}", up.exit, up.stderr);
    }
}
