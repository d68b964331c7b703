//! The hosts of each client, whose addresses change, and what reached them.

use crate::clients::{Client, Resolved};
use egress_tests::hosts::Origin;
use egress_tests::{Lab, LabOptions, client};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// What each client has of its own. `rotating`: 8 of 200 addresses in each answer, TTL 1 s, both families. `fresh`: a
/// new address in each answer, TTL 1 s. `zero`: the same with TTL 0.
pub const NAMES: [&str; 3] = ["rotating", "fresh", "zero"];
/// The addresses of `rotating`, and how many of them an answer has.
const POOL: usize = 200;
const EACH: usize = 8;
/// The addresses of `fresh` and of `zero`: more than there are answers.
const NEW: usize = 3900;

/// As the kubelet writes it for a pod, with a first server that does not exist.
const SEARCH: [&str; 3] = [
    "shop.svc.cluster.local",
    "svc.cluster.local",
    "cluster.local",
];
const SERVERS: &str =
    "nameserver 192.0.2.66\nnameserver 198.51.100.53\nnameserver 2001:db8:2::53\n";

const HTTP: u16 = 8080;
const TLS: u16 = 8443;
const TCP: u16 = 7007;

/// Longer than the slowest client takes.
const LIMIT: Duration = Duration::from_mins(4);

pub struct Hosts {
    // Dropped in this order: first the processes, then the lab.
    resolved: Resolved,
    lab: Lab,
    origins: Vec<Origin>,
}

/// How a client ended.
pub struct Ended {
    pub rounds: usize,
    pub failed: Vec<String>,
    pub took: Duration,
}

/// An address of the pool of the client with this number.
fn v4(client: usize, nth: usize) -> IpAddr {
    // 198.18.0.0/15, 8192 addresses for each client.
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    Ipv4Addr::from(first + u32::try_from(client * 8192 + nth).unwrap()).into()
}

fn v6(client: usize, nth: usize) -> IpAddr {
    let [client, nth] = [client + 1, nth].map(|n| u16::try_from(n).unwrap());
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, client, 0, 0, nth).into()
}

impl Hosts {
    pub fn start() -> Self {
        let flags = SEARCH.map(|domain| format!("--dns-search={domain}"));
        let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        flags.push("--dns-intercept=auto");
        let lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
        let text = format!("search {}\noptions ndots:5\n{SERVERS}", SEARCH.join(" "));
        fs::write(lab.resolver().path().join("resolv.conf"), text).unwrap();
        lab.node()
            .ip("route add 198.18.0.0/15 via 203.0.113.254")
            .unwrap();
        lab.outside()
            .ip("route add local 198.18.0.0/15 dev lo")
            .unwrap();
        Self {
            resolved: Resolved::start(&lab),
            lab,
            origins: Vec::new(),
        }
    }

    /// Lists and serves the names of these clients.
    pub fn serve(&mut self, clients: &[&str]) {
        let mut names = Vec::new();
        for (nth, word) in clients.iter().enumerate() {
            let own = |kind: &str| format!("{kind}.{}.example", word.replace('_', "-"));
            let (from, to) = (POOL, POOL + NEW);
            let rotating = (0..POOL).flat_map(|n| [v4(nth, n), v6(nth, n)]);
            let dns = &self.lab.dns;
            dns.rotate(&own(NAMES[0]), &rotating.collect::<Vec<_>>(), EACH, 1);
            let new = |from: usize, to: usize| (from..to).map(|n| v4(nth, n)).collect::<Vec<_>>();
            dns.rotate(&own(NAMES[1]), &new(from, to), 1, 1);
            dns.rotate(&own(NAMES[2]), &new(to, to + NEW), 1, 0);
            names.extend(NAMES.map(own));
        }
        let every = [IpAddr::from(Ipv6Addr::UNSPECIFIED)];
        let world = self.lab.world();
        let some: Vec<&str> = names.iter().map(String::as_str).collect();
        self.origins = vec![
            world.http(&every, HTTP).unwrap(),
            world
                .https(&every, TLS, self.lab.authority(), &some)
                .unwrap(),
            world.http(&every, TCP).unwrap(),
        ];
        // With the label, clients get the addresses of the answers although the hosts share a TCP port.
        let rule = |name: &String| {
            format!(
                "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {}, labels: {{networking.istio.io/enable-autoallocate-ip: 'false'}}}}
spec:
  hosts: [{name}]
  resolution: DNS
  ports:
  - {{number: {HTTP}, name: http, protocol: HTTP}}
  - {{number: {TLS}, name: tls, protocol: TLS}}
  - {{number: {TCP}, name: tcp, protocol: TCP}}
",
                name.replace('.', "-")
            )
        };
        let rules: Vec<String> = names.iter().map(rule).collect();
        let rules = rules.join("---");
        self.lab.rules("clients.yaml", &rules).unwrap();
    }

    fn urls(client: &Client) -> Vec<String> {
        let schemes = [("http", HTTP), ("https", TLS), ("http", TCP)];
        let own = client.word.replace('_', "-");
        let mut urls = Vec::new();
        for (scheme, port) in schemes {
            if scheme == "http" || client.tls {
                urls.extend(
                    NAMES.map(|name| format!("{scheme}://{name}.{own}.example:{port}/get")),
                );
            }
        }
        urls
    }

    /// Runs a client to its end.
    pub fn run(&self, client: &Client, rounds: Option<usize>) -> Ended {
        let rounds = rounds.unwrap_or(client.rounds);
        let mut command = client.command(&self.lab, rounds, &Self::urls(client));
        command.env("EGRESS_TEST_RESOLVED", self.resolved.folder());
        let ended = client::run(command, LIMIT).unwrap();
        let said = || format!("{}: {} {}", client.word, ended.stdout, ended.stderr);
        assert_eq!(ended.exit, 0, "{}", said());
        let line: Value =
            serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", said()));
        let some = line["failed"].as_array().unwrap();
        let mut failed: Vec<String> = some.iter().map(ToString::to_string).collect();
        let failures = usize::try_from(line["failures"].as_u64().unwrap()).unwrap();
        failed.resize(failures, "another".to_owned());
        Ended {
            rounds,
            failed,
            took: ended.elapsed,
        }
    }
}

impl Hosts {
    /// The addresses at which a client's requests for one of [`NAMES`] arrived.
    pub fn addresses(&self, word: &str, name: &str) -> BTreeSet<IpAddr> {
        let host = format!("{name}.{}.example:", word.replace('_', "-"));
        let mut found = BTreeSet::new();
        for request in self.origins.iter().flat_map(Origin::requests) {
            if request
                .header("host")
                .is_some_and(|value| value.starts_with(&host))
            {
                found.insert(request.local.ip().to_canonical());
            }
        }
        found
    }

    /// The addresses that these rounds reach at least. Otherwise the client, or something before it, has kept answers.
    pub fn least(client: &Client, ended: &Ended) -> [usize; 3] {
        // The agent keeps answers for their TTL, so there is one a second, and a loaded machine has fewer. The proxy
        // dials addresses of the agent's own answers, so only TCP without it shows each new address of `zero`.
        let turns = ended.rounds / NAMES.len();
        let changes = usize::try_from(ended.took.as_secs() / 3).unwrap();
        let changes = changes.clamp(1, turns / 3);
        let rotating = if client.each { EACH } else { 1 };
        [changes.max(rotating), changes, turns / 3]
    }

    /// Lines of the agent's log about denials.
    pub fn denials(&mut self) -> Vec<String> {
        let mut lines = self.lab.agent().unwrap().log_since(0);
        lines.retain(|line| line.contains("WARN denied"));
        // systemd-resolved asks its neighbours by LLMNR whether its name is free.
        lines.retain(|line| !line.contains(":5355 "));
        lines
    }
}
