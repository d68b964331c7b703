//! Hosts that share a TCP port get addresses of their own, so that two databases on one port are told apart by name,
//! also if both are at one real address.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::hosts::Echo;
use egress_tests::lab::LabOptions;
use egress_tests::probe::Answer;
use egress_tests::{Lab, wait_until};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const PORT: u16 = 5432;
const LIMIT: Duration = Duration::from_secs(10);

/// Resolves a name, connects to its first address of a family and exchanges a few bytes, as a database client does.
const CLIENT: &str = "
import socket, sys
family = {'4': socket.AF_INET, '6': socket.AF_INET6}[sys.argv[2]]
found = socket.getaddrinfo(sys.argv[1], 5432, family, socket.SOCK_STREAM)
print(' '.join(sorted({at[4][0] for at in found})))
with socket.socket(family, socket.SOCK_STREAM) as client:
    client.settimeout(10)
    client.connect(found[0][4])
    client.sendall(b'select 1')
    got = b''
    while len(got) < 8:
        more = client.recv(8)
        if not more:
            sys.exit('closed')
        got += more
";

/// Both databases are at one real address. Only the ports of their servers differ.
fn database(name: &str, target: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
         spec:\n  hosts: [{name}.example]\n  resolution: DNS\n  \
         ports: [{{number: {PORT}, name: tcp, protocol: TCP, targetPort: {target}}}]\n"
    )
}

struct Databases {
    lab: Lab,
    servers: [Echo; 2],
}

const NAMES: [&str; 2] = ["db1", "db2"];

fn shared() -> IpAddr {
    IpAddr::from([198, 51, 100, 150])
}

fn databases(flags: &[&str]) -> Databases {
    let flags = [&["--dns-intercept=auto"], flags].concat();
    let lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
    let servers = [5433, 5434].map(|port| lab.world().echo(&[shared()], port).unwrap());
    for (name, port) in NAMES.iter().zip([5433, 5434]) {
        lab.dns.set(&format!("{name}.example"), &[shared()], 30);
        lab.rules(&format!("{name}.yaml"), &database(name, port))
            .unwrap();
    }
    let lab = Databases { lab, servers };
    for name in NAMES {
        lab.wait_for(name);
    }
    lab
}

impl Databases {
    /// The address of a family that a client gets, if the exchange succeeds.
    fn exchange(&self, name: &str, family: &str) -> Result<IpAddr, String> {
        let name = format!("{name}.example");
        let arguments = ["-c", CLIENT, &name, family];
        let ended = self.lab.run("python3", &arguments).unwrap();
        if ended.exit != 0 {
            return Err(ended.stderr);
        }
        let address = ended.stdout.trim().parse();
        address.map_err(|_| ended.stdout)
    }

    /// Waits until the agent knows the real address of a database.
    fn wait_for(&self, name: &str) {
        wait_until(name, LIMIT, || self.exchange(name, "4").ok()).unwrap();
    }

    fn vips(&self, name: &str) -> [IpAddr; 2] {
        ["4", "6"].map(|family| self.exchange(name, family).unwrap())
    }

    fn connections(&self) -> [usize; 2] {
        [0, 1].map(|n| self.servers[n].connections())
    }

    fn attempt(&self, to: IpAddr) -> Answer {
        let to = SocketAddr::new(to, PORT);
        self.lab.attempt("tcp-echo", to).unwrap()
    }

    fn explain(&self, asked: &str) -> String {
        let socket = self.lab.admin_socket().display().to_string();
        let verb = ["explain", asked, "--admin-socket", &socket];
        self.lab.verb(&verb).unwrap().stdout
    }
}

#[test]
fn each_name_leads_to_its_own_server_although_address_and_port_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (config, log) = (dir.path().join("agent.yaml"), dir.path().join("access.log"));
    fs::write(&config, format!("accessLogFile: {}\n", log.display())).unwrap();
    let of = databases(&["--config", config.to_str().unwrap()]);
    for (n, name) in NAMES.iter().enumerate() {
        for (family, network) in [("4", "240.240."), ("6", "2001:2:0:")] {
            let before = of.connections();
            let vip = of.exchange(name, family).unwrap();
            assert!(vip.to_string().starts_with(network), "{vip}");
            let mut expected = before;
            expected[n] += 1;
            assert_eq!(of.connections(), expected, "{name} {family}");
            let explained = of.explain(&SocketAddr::new(vip, PORT).to_string());
            assert!(explained.contains("allowed"), "{explained}");
            let others = NAMES.iter().filter(|other| explained.contains(**other));
            assert_eq!(others.collect::<Vec<_>>(), [name], "{explained}");
            let cluster = format!("outbound|{PORT}||{name}.example");
            let dialled = format!(" {} ", SocketAddr::new(vip, PORT));
            wait_until("the access log", LIMIT, || {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let mut lines = text.lines();
                lines
                    .any(|line| line.contains(&cluster) && line.contains(&dialled))
                    .then_some(())
            })
            .unwrap();
        }
        let explained = of.explain(&format!("{name}.example:{PORT}"));
        for part in ["allowed", "240.240.", "2001:2:0:", "allocated"] {
            assert!(explained.contains(part), "{part}: {explained}");
        }
    }
}

#[test]
fn unlisted_names_and_addresses_of_removed_hosts_are_denied() {
    let mut of = databases(&[]);
    of.lab.dns.set("db3.example", &[shared()], 30);
    assert!(of.exchange("db3", "4").is_err());
    for unlisted in ["240.240.1.1", "2001:2::1"] {
        assert!(of.attempt(unlisted.parse().unwrap()).denied());
    }
    let removed = of.vips("db2");
    assert!(removed.iter().all(|vip| of.attempt(*vip).passed()));
    // A port that the host does not list: the denial names the host.
    let mark = of.lab.agent().unwrap().mark();
    let elsewhere = SocketAddr::new(removed[0], 5434);
    assert!(of.lab.attempt("tcp-echo", elsewhere).unwrap().denied());
    let denied = |line: &str| {
        let parts = ["denied", &elsewhere.to_string(), "db2.example"];
        parts.iter().all(|part| line.contains(part))
    };
    let agent = of.lab.agent().unwrap();
    agent.wait_line(mark, LIMIT, "the denial", denied).unwrap();
    let before = of.connections();
    of.lab.remove_rules("db2.yaml").unwrap();
    for vip in removed {
        assert!(of.attempt(vip).denied(), "{vip}");
        let agent = of.lab.agent().unwrap();
        let denied = |line: &str| line.contains("denied") && line.contains(&vip.to_string());
        agent.wait_line(mark, LIMIT, "the denial", denied).unwrap();
    }
    assert!(of.exchange("db2", "4").is_err());
    assert_eq!(of.connections(), before);
    // Alone on the port, the other host is dialled at its real address.
    assert_eq!(of.exchange("db1", "4"), Ok(shared()));
    // A host that comes back has its former addresses.
    of.lab.rules("db2.yaml", &database("db2", 5434)).unwrap();
    of.wait_for("db2");
    assert_eq!(of.vips("db2"), removed);
    let status = of.lab.status().unwrap();
    assert_eq!(status["rules"]["allocated"]["used"], 2);
}

#[test]
fn real_addresses_stay_allowed_and_a_restart_keeps_the_allocated_ones() {
    let mut of = databases(&[]);
    // Two hosts with real addresses of their own.
    let real = [151, 152].map(|last| IpAddr::from([198, 51, 100, last]));
    let servers = real.map(|ip| of.lab.world().echo(&[ip], PORT).unwrap());
    for (name, ip) in ["db4", "db5"].iter().zip(real) {
        of.lab.dns.set(&format!("{name}.example"), &[ip], 30);
        of.lab
            .rules(&format!("{name}.yaml"), &database(name, PORT))
            .unwrap();
        of.wait_for(name);
    }
    let names = ["db1", "db2", "db4", "db5"];
    let before = names.map(|name| of.vips(name));
    assert!(real.iter().all(|ip| of.attempt(*ip).passed()));
    let connections = servers.each_ref().map(Echo::connections);
    of.lab.agent().unwrap().terminate().unwrap();
    of.lab.start_agent().unwrap();
    for name in names {
        of.wait_for(name);
    }
    assert_eq!(names.map(|name| of.vips(name)), before);
    // A client that kept the addresses reaches the same servers.
    for (n, [v4, v6]) in before[2..].iter().enumerate() {
        let former = servers[n].connections();
        assert!(of.attempt(*v4).passed() && of.attempt(*v6).passed());
        assert_eq!(servers[n].connections(), former + 2);
        assert!(former > connections[n]);
    }
}

#[test]
fn the_label_and_the_setting_keep_real_addresses() {
    let labelled = database("db1", PORT).replace(
        "{name: db1}",
        "{name: db1, labels: {networking.istio.io/enable-autoallocate-ip: 'false'}}",
    );
    for (flag, one) in [("auto", labelled), ("off", database("db1", PORT))] {
        let flag = format!("--dns-intercept={flag}");
        let lab = Lab::start_with(LabOptions::flags(&[&flag])).unwrap();
        let server = lab.world().echo(&[shared()], PORT).unwrap();
        for name in NAMES {
            lab.dns.set(&format!("{name}.example"), &[shared()], 30);
        }
        lab.rules("db1.yaml", &one).unwrap();
        lab.rules("db2.yaml", &database("db2", PORT)).unwrap();
        let of = Databases {
            lab,
            servers: [server.clone(), server],
        };
        of.wait_for("db1");
        assert_eq!(of.exchange("db1", "4"), Ok(shared()), "{flag}");
        let two = of.exchange("db2", "4").unwrap();
        assert_eq!(two == shared(), flag.ends_with("off"), "{flag}: {two}");
    }
}
