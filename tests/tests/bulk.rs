//! Many bytes over one connection, in both families and with every segment size of a device: packets over 64 KiB pass
//! the gate like others.
//!
//! A transfer that stalls fails. A bench measures the time of transfers.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::agent::beside;
use egress_tests::lab::{host, v4, v6};
use egress_tests::rules::each_way;
use egress_tests::{Lab, client};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

const MB: usize = 1 << 20;
/// A gate that drops packets over 64 KiB takes 11 s for 5 MB and 31 s for 50 MB.
const LIMIT: Duration = Duration::from_secs(20);
/// Agent and hosts are not optimised here. curl ends earlier if a transfer stalls.
const PROXIED_LIMIT: Duration = Duration::from_mins(2);

/// Runs the client inside the gate.
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
    lab.rules("rules.yaml", &each_way()).unwrap();
    for size in [65_536, 131_072, 196_608] {
        lab.node().segments("out0", size).unwrap();
        lab.outside().segments("node0", size).unwrap();
        for at in [v4(host::ECHO), v6(host::ECHO)] {
            let seconds = bulk(&lab, "echo", SocketAddr::new(at, 7), 50 * MB);
            println!("{at}, segments of {size}: 50 MB each way in {seconds:.2} s");
        }
    }
}

#[test]
fn bulk_uploads_and_downloads_through_the_proxy() {
    let lab = Lab::start().unwrap();
    lab.rules("rules.yaml", &each_way()).unwrap();
    let bytes = 50 * MB;
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes as u64).unwrap();
    let file = file.path().to_string_lossy();
    let origins = [
        ("http://httpbin.org", &lab.httpbin),
        ("https://www.google.com", &lab.google),
    ];
    for (url, origin) in origins {
        for family in ["-4", "-6"] {
            let before = origin.connections();
            let sink = format!("{url}/sink");
            let up = ["-T", file.as_ref(), "-H", "Expect:", &sink];
            let counted = moved(&lab, family, &up, "%{size_upload}", bytes);
            let counted: serde_json::Value = serde_json::from_str(&counted).unwrap();
            assert_eq!(counted["bytes"], bytes, "{family} {url}");
            let download = format!("{url}/bytes/{bytes}");
            let down = ["-o", "/dev/null", &download];
            moved(&lab, family, &down, "%{size_download}", bytes);
            // The proxy made connections for them. The host saw no others.
            assert!(origin.connections() > before, "{family} {url}");
        }
    }
}

/// Runs curl inside the gate; it ends if nothing moves for ten seconds. All bytes must have arrived. Returns the
/// answer's body.
fn moved(lab: &Lab, family: &str, arguments: &[&str], size: &str, bytes: usize) -> String {
    let mut command = lab.command("curl").unwrap();
    command.args(["-q", "-sS", "--noproxy", "*", "--fail", family]);
    command.args(["-Y", "1000", "-y", "10", "--cacert"]);
    command.arg(lab.authority().path());
    command.arg("--write-out").arg(format!("%{{stderr}}{size}"));
    command.args(arguments);
    let ended = client::run(command, PROXIED_LIMIT).unwrap();
    assert_eq!(
        (ended.exit, ended.stderr.trim()),
        (0, &bytes.to_string()[..]),
        "{family} {arguments:?}"
    );
    ended.stdout
}
