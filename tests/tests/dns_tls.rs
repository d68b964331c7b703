//! Name servers over TLS (`dns.servers: tls://...`): the agent's questions and those for workloads go over few connections
//! to a server with a valid certificate, and nowhere else.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::agent::{self, Agent};
use egress_tests::escape::capture::{Capture, Frame};
use egress_tests::hosts::{Authority, DnsTls};
use egress_tests::lab::{LabOptions, host, v4, v6};
use egress_tests::rules::HTTPBIN;
use egress_tests::{Lab, wait_until};
use rustix::process::Signal;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

const NAME: &str = "dns.example";
const PORT: u16 = 853;
const ROUTER: &str = "203.0.113.254";
const SOON: Duration = Duration::from_secs(15);
/// How long the agent has for one question to one server.
const LIMIT: Duration = Duration::from_secs(2);

/// Names that only workloads ask for.
const BELOW: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: below}
spec:
  hosts: ['*.below.example']
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: NONE
";

/// Resolves this many names with as many threads, and prints how many have their address.
const RESOLVE: &str = "
import socket, sys
from concurrent.futures import ThreadPoolExecutor
names = [f'{sys.argv[1]}{n}.below.example' for n in range(int(sys.argv[2]))]
found = ThreadPoolExecutor(50).map(lambda name: socket.getaddrinfo(name, 80, socket.AF_INET), names)
print(sum(one[0][4][0] == sys.argv[3] for one in found))
";

/// A lab whose agent does not run yet, and its DNS server over TLS.
fn lab(at: IpAddr, name: &str) -> (Lab, DnsTls) {
    let lab = Lab::without_agent(LabOptions::default()).unwrap();
    lab.dns.set("*.below.example", &[v4(host::HTTPBIN)], 1);
    let server = serve(&lab, at, name);
    (lab, server)
}

fn serve(lab: &Lab, at: IpAddr, name: &str) -> DnsTls {
    let at = SocketAddr::new(at, PORT);
    let world = lab.world();
    world.dns_tls(&lab.dns, at, lab.authority(), name).unwrap()
}

fn start(lab: &mut Lab, servers: &[&str], authorities: &Path, more: &[&str]) {
    let flags = servers
        .iter()
        .map(|server| format!("--dns-server={server}"));
    let authorities = format!("--dns-ca-certificates={}", authorities.display());
    let flags: Vec<String> = flags.chain([authorities]).collect();
    lab.add_flags(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    lab.add_flags(more);
    lab.start_agent().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    lab.rules("below.yaml", BELOW).unwrap();
}

/// The usual server and the lab's authority.
fn start_usual(lab: &mut Lab, more: &[&str]) {
    let server = format!("tls://{}#{NAME}", v4(host::DNS));
    let authorities = lab.authority().path().to_owned();
    start(lab, &[&server], &authorities, more);
}

/// A request of a client that knows the address, as after a query of its own.
fn reaches(lab: &Lab) -> bool {
    let known = format!("httpbin.org:80:{}", v4(host::HTTPBIN));
    let arguments = [
        "--resolve",
        &known,
        "-4",
        "-m",
        "5",
        "http://httpbin.org/get",
    ];
    lab.curl(&arguments).unwrap().code == 200
}

fn is_reached(lab: &Lab) {
    wait_until("the host is reached", SOON, || reaches(lab).then_some(())).unwrap();
}

/// How many of `count` names of workloads get their address.
fn resolved(lab: &Lab, prefix: &str, count: usize) -> usize {
    let (count, address) = (count.to_string(), v4(host::HTTPBIN).to_string());
    let ended = lab.run("python3", &["-c", RESOLVE, prefix, &count, &address]);
    let ended = ended.unwrap();
    ended.stdout.trim().parse().unwrap_or_default()
}

fn frames(lab: &Lab, capture: &mut Capture) -> Vec<Frame> {
    capture.settle(lab.node(), ROUTER.parse().unwrap()).unwrap()
}

fn warnings(lab: &mut Lab, from: usize) -> Vec<String> {
    let lines = lab.agent().unwrap().log_since(from).into_iter();
    lines
        .filter(|line| line.contains("cannot be asked over TLS"))
        .collect()
}

#[test]
fn a_listed_host_works_with_both_kinds_of_intercept_and_nothing_leaves_on_port_53() {
    for (intercept, at, name) in [
        ("off", v4(host::DNS), NAME),
        ("auto", v6(host::DNS), "2001:db8:2::53"),
    ] {
        let (mut lab, server) = lab(at, name);
        let mut capture = Capture::start(lab.outside()).unwrap();
        let listed = match at {
            IpAddr::V4(ip) => format!("tls://{ip}#{name}"),
            // The certificate is for the address.
            IpAddr::V6(ip) => format!("tls://[{ip}]:{PORT}"),
        };
        let authorities = lab.authority().path().to_owned();
        let flag = format!("--dns-intercept={intercept}");
        start(&mut lab, &[&listed], &authorities, &[&flag]);
        is_reached(&lab);
        let asked = |name: &str| lab.dns.queries().iter().any(|(asked, _)| asked == name);
        assert!(asked("httpbin.org") && !asked("n0.below.example"));
        let port = |port| {
            lab.attempt("tcp", SocketAddr::new(v4(host::DNS), port))
                .unwrap()
                .errno
        };
        assert_eq!(port(PORT), Some(libc::EPERM), "{intercept}");
        if intercept == "auto" {
            assert_eq!(resolved(&lab, "n", 1), 1);
            assert!(asked("n0.below.example"));
            let url = "http://n0.below.example/get";
            assert_eq!(lab.curl(&["-4", "-m", "5", url]).unwrap().code, 200);
        } else {
            // A server over TLS opens no port for workloads.
            assert_eq!(port(53), Some(libc::EPERM));
        }
        let shown = lab.verb(&[
            "status",
            "--admin-socket",
            lab.admin_socket().to_str().unwrap(),
        ]);
        let shown = shown.unwrap().stdout;
        assert!(!shown.contains("port 53 of the name servers"), "{shown}");
        let status = lab.status().unwrap();
        assert!(
            status["dns"]["servers"][0]["server"]
                .as_str()
                .unwrap()
                .starts_with("tls://")
        );
        assert!(status["dns"]["servers"][0]["failing"].is_null(), "{status}");
        assert_eq!(server.connections(), 1);

        let frames = frames(&lab, &mut capture);
        let of = |port| frames.iter().filter(|f| f.port == port).collect::<Vec<_>>();
        assert_eq!(of(53), Vec::<&Frame>::new(), "{intercept}");
        assert!(of(PORT).len() > 3);
        let clear =
            |frame: &&&Frame| frame.contains_text("httpbin") || frame.contains_text("below");
        assert_eq!(of(PORT).iter().filter(clear).count(), 0);
    }
}

#[test]
fn a_server_without_a_valid_certificate_is_asked_nothing_and_the_log_says_why_once() {
    let other = Authority::new().unwrap();
    for (name, of, why) in [
        (
            "other.example",
            None,
            "not valid for dns.example, but for other.example",
        ),
        (
            NAME,
            Some(&other),
            "of none of the authorities that are trusted",
        ),
    ] {
        let (mut lab, server) = lab(v4(host::DNS), NAME);
        server.present(of.unwrap_or(lab.authority()), name).unwrap();
        let mut capture = Capture::start(lab.outside()).unwrap();
        start_usual(&mut lab, &["--dns-intercept=auto", "--dns-grace=0s"]);
        assert_eq!(resolved(&lab, "n", 5), 0);
        for _ in 0..5 {
            assert!(!reaches(&lab));
        }
        assert_eq!(lab.dns.queries(), []);
        assert!(server.connections() > 1);
        assert_eq!(server.handshakes(), 0);
        let lines = warnings(&mut lab, 0);
        assert!(lines.len() == 1 && lines[0].contains(why), "{lines:#?}");
        let status = lab.status().unwrap();
        let failing = status["dns"]["servers"][0]["failing"].as_str();
        assert!(failing.unwrap().contains(why), "{status}");
        let frames = frames(&lab, &mut capture);
        assert_eq!(frames.iter().filter(|f| f.port == 53).count(), 0);

        // With the right certificate it is asked again.
        let mark = lab.agent().unwrap().mark();
        server.present(lab.authority(), NAME).unwrap();
        assert_eq!(resolved(&lab, "m", 5), 5);
        is_reached(&lab);
        let again = |line: &str| line.contains("answers over TLS again");
        let agent = lab.agent().unwrap();
        agent
            .wait_line(mark, SOON, "the server answers again", again)
            .unwrap();
        assert!(warnings(&mut lab, mark).is_empty());
    }
}

#[test]
fn the_next_server_of_the_list_is_asked_for_one_that_cannot_be() {
    let (mut lab, _right) = lab(v4(host::DNS), NAME);
    let wrong = serve(&lab, v6(host::DNS), "other.example");
    let servers = [
        format!("tls://[{}]#{NAME}", v6(host::DNS)),
        format!("tls://{}#{NAME}", v4(host::DNS)),
    ];
    let authorities = lab.authority().path().to_owned();
    let servers = servers.each_ref().map(String::as_str);
    start(&mut lab, &servers, &authorities, &["--dns-intercept=auto"]);
    is_reached(&lab);
    assert_eq!(resolved(&lab, "n", 20), 20);
    assert!(wrong.connections() > 0 && wrong.handshakes() == 0);
    assert_eq!(warnings(&mut lab, 0).len(), 1);
}

#[test]
fn a_question_is_answered_after_the_server_closed_the_connection_or_was_restarted() {
    let (mut lab, mut server) = lab(v4(host::DNS), NAME);
    start_usual(&mut lab, &["--dns-intercept=auto"]);
    is_reached(&lab);
    let timely = |prefix: &str| {
        let begin = Instant::now();
        assert_eq!(resolved(&lab, prefix, 1), 1, "{prefix}");
        assert!(begin.elapsed() < LIMIT, "{prefix}: {:?}", begin.elapsed());
    };
    for n in 0..5 {
        server.close_all();
        timely(&format!("closed{n}-"));
    }
    server.close_after(1);
    server.close_all();
    for n in 0..5 {
        timely(&format!("each{n}-"));
    }
    for n in 0..3 {
        drop(server);
        // The port is free once the tasks have ended.
        server = wait_until("the server is up again", SOON, || {
            let at = SocketAddr::new(v4(host::DNS), PORT);
            lab.world()
                .dns_tls(&lab.dns, at, lab.authority(), NAME)
                .ok()
        })
        .unwrap();
        timely(&format!("restarted{n}-"));
    }
}

#[test]
fn two_hundred_names_take_few_connections() {
    let (mut lab, server) = lab(v4(host::DNS), NAME);
    start_usual(&mut lab, &["--dns-intercept=auto"]);
    assert_eq!(resolved(&lab, "n", 200), 200);
    let asked = lab.dns.queries();
    assert!(asked.len() >= 200, "{}", asked.len());
    assert!(server.connections() <= 2, "{}", server.connections());
}

#[test]
fn authorities_are_read_at_the_start_and_when_the_config_is_read_again() {
    let (mut lab, _server) = lab(v4(host::DNS), NAME);
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (
        folder.path().join("ca.pem"),
        folder.path().join("agent.yaml"),
    );
    fs::write(
        &config,
        format!("dns: {{caCertificates: {}}}\n", file.display()),
    )
    .unwrap();
    let server = format!("--dns-server=tls://{}#{NAME}", v4(host::DNS));
    lab.add_flags(&[
        "--config",
        config.to_str().unwrap(),
        &server,
        "--dns-intercept=auto",
    ]);

    let place = lab.agent_place();
    let binary = agent::binary().unwrap();
    let mut ended = Agent::spawn(&place, &binary, &lab.agent_arguments()).unwrap();
    assert!(!ended.wait_end(SOON).unwrap().success());
    let place = format!("dns.caCertificates: {}: No such file", file.display());
    let lines: Vec<_> = ended.tail().lines().map(str::to_owned).collect();
    assert_eq!(
        lines.iter().filter(|line| line.contains(&place)).count(),
        1,
        "{lines:#?}"
    );

    let other = Authority::new().unwrap();
    fs::copy(other.path(), &file).unwrap();
    lab.start_agent().unwrap();
    lab.rules("below.yaml", BELOW).unwrap();
    assert_eq!(resolved(&lab, "n", 1), 0);
    let reload = |lab: &mut Lab, what: &str| {
        let agent = lab.agent().unwrap();
        let mark = agent.mark();
        agent.signal(Signal::HUP).unwrap();
        agent
            .wait_line(mark, SOON, what, |line| line.contains(what))
            .unwrap()
    };
    fs::write(&file, "no certificate").unwrap();
    let line = reload(&mut lab, "config not applied");
    assert!(
        line.contains("dns.caCertificates: ") && line.contains("no certificate in it"),
        "{line}"
    );
    assert_eq!(resolved(&lab, "m", 1), 0);
    fs::copy(lab.authority().path(), &file).unwrap();
    reload(&mut lab, "config applied");
    wait_until("the server is trusted", SOON, || {
        (resolved(&lab, "o", 1) == 1).then_some(())
    })
    .unwrap();
    // Connections by former authorities are not used.
    fs::copy(other.path(), &file).unwrap();
    reload(&mut lab, "config applied");
    wait_until("the server is not trusted", SOON, || {
        (resolved(&lab, "p", 5) == 0).then_some(())
    })
    .unwrap();
}
