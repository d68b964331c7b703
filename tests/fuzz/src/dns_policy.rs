//! Any bytes as a query of a workload, and any bytes as the answer of an upstream server: from message to policy to
//! answer. No unlisted name is forwarded, and no address without a lease reaches the client.
//!
//! The plain readers of names and records here share no code with the product's.

use egress_core::dns::answer::{Filtered, filter};
use egress_core::dns::content::{Content, Transport};
use egress_core::dns::judge::{Decision, Reach, Upstream, judge};
use egress_core::dns::listing::Directory;
use egress_core::dns::query::{Query, read};
use egress_core::dns::settings::QuerySettings;
use egress_core::istio::{Object, decode};
use egress_core::policy::leases::LeaseSettings;
use egress_core::policy::state::{Settings, State};
use egress_ebpf::addr::Addr;
use egress_ebpf::ids::PolicyId;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

const RULES: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ["*.w.example"]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: NONE
"#;

static DIRECTORY: LazyLock<Directory> = LazyLock::new(|| {
    let decoded = decode("rules.yaml", RULES);
    assert!(!decoded.is_broken());
    let objects: Vec<Arc<Object>> = decoded.objects.into_iter().map(Arc::new).collect();
    let mut state = State::new(Settings::default());
    state.handle_rules(Instant::now(), &objects);
    drop(state.poll_ops());
    let settings = QuerySettings {
        cluster_domain: Some("c.local".into()),
        ..QuerySettings::default()
    };
    Directory {
        routes: state.routes(),
        names: state.names(),
        settings: Arc::new(settings),
        version: 0,
    }
});

/// Panics where something is wrong. The first byte is the length of the query; the answer follows.
pub fn run(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first() else {
        return;
    };
    let (asked, answer) = bytes.split_at(usize::from(*length).min(bytes.len()));
    let query = match read(asked) {
        Ok(query) => query,
        Err(bad) => {
            if let Some(reply) = bad.reply() {
                assert_eq!(reply[..2], asked[..2]);
                assert!(reply[2] & 0x80 != 0 && reply.len() <= 512);
            }
            return;
        }
    };
    let name = plain_name(asked).expect("a query has a name");
    assert_eq!(name, query.question.name.as_bytes());
    match judge(DIRECTORY.listing(PolicyId(0)), &query.question) {
        Decision::Deny(denial) => {
            assert!(!denial.reason.to_string().is_empty());
            replied(&query, &Content::empty(denial.code));
        }
        Decision::Local(local) => {
            replied(&query, &Content::local(&query.question, &local));
        }
        Decision::Endpoints(endpoints) => panic!("no rule has {endpoints:?}"),
        Decision::Forward(forward) => {
            let name = str::from_utf8(&name).expect("host names are ASCII");
            match forward.upstream {
                Upstream::Trusted => assert!(
                    matches!(name, "a.example" | "_443._https.a.example")
                        || name.ends_with(".w.example")
                ),
                Upstream::Asked => assert!(name == "c.local" || name.ends_with(".c.local")),
            }
            let listing = DIRECTORY.listing(PolicyId(0));
            let leases = LeaseSettings::default();
            // As it is, and as one that an honest server may have sent.
            for message in [answer.to_vec(), honest(&query, answer)] {
                let filtered = filter(listing, &leases, &query.question, &forward, &message);
                if let Ok(filtered) = filtered {
                    let replies = replied(&query, &filtered.content);
                    if forward.reach == Reach::Leased {
                        for reply in replies {
                            leased(&filtered, &reply);
                        }
                    }
                }
            }
        }
    }
}

/// A response to the question with these bytes as its records.
fn honest(query: &Query, records: &[u8]) -> Vec<u8> {
    let (counts, records) = records.split_at(records.len().min(2));
    let count = |at: usize| counts.get(at).copied().unwrap_or(0);
    let mut message = vec![0, 0, 0x81, 0x80, 0, 1, 0, count(0), 0, count(1), 0, 0];
    message.extend(query.client.question());
    message.extend(records);
    message
}

/// The replies over both transports. They repeat the id and the question, and fit.
fn replied(query: &Query, content: &Content) -> [Vec<u8>; 2] {
    let client = &query.client;
    [Transport::Udp, Transport::Tcp].map(|transport| {
        let reply = content.reply(client, transport, Duration::from_secs(1));
        assert_eq!(reply[..2], client.id.to_be_bytes());
        assert!(reply[2] & 0x80 != 0);
        assert!(reply[12..].starts_with(client.question()));
        let most = if transport == Transport::Udp {
            client.udp_size()
        } else {
            65_535
        };
        assert!(reply.len() <= most);
        reply
    })
}

/// Every address of a reply has a lease, and is public.
fn leased(filtered: &Filtered, reply: &[u8]) {
    let leases = filtered.leases.iter().flat_map(|l| &l.answer.addresses);
    let leases: Vec<IpAddr> = leases.copied().collect();
    for ip in addresses(reply).expect("the agent's own reply is well-formed") {
        let ip = IpAddr::from(Addr::from(ip).canonical());
        assert!(leases.contains(&ip), "{ip} has no lease");
        let inside = match ip {
            IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
        };
        assert!(!inside, "{ip} is not public");
    }
}

/// The addresses of all A and AAAA records, and of hints.
fn addresses(reply: &[u8]) -> Option<Vec<IpAddr>> {
    let count = |at: usize| Some(u16::from_be_bytes([*reply.get(at)?, *reply.get(at + 1)?]));
    let records = count(6)? + count(8)? + count(10)?;
    let mut at = skip(reply, 12)? + 4;
    let mut found = Vec::new();
    for _ in 0..records {
        at = skip(reply, at)?;
        let (kind, length) = (count(at)?, usize::from(count(at + 8)?));
        let data = reply.get(at + 10..at + 10 + length)?;
        match kind {
            1 => found.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
            28 => found.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
            64 | 65 => {
                let mut rest = data.get(skip(data, 2)?..)?;
                while let [a, b, c, d, more @ ..] = rest {
                    let key = u16::from_be_bytes([*a, *b]);
                    // alpn, no-default-alpn, port and the list of mandatory keys.
                    assert!(key < 4, "parameter {key}");
                    rest = more.get(usize::from(u16::from_be_bytes([*c, *d]))..)?;
                }
            }
            _ => {}
        }
        at += 10 + length;
    }
    (at == reply.len()).then_some(found)
}

/// The place after a name.
fn skip(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

/// The name of the question, in lower case with dots.
fn plain_name(query: &[u8]) -> Option<Vec<u8>> {
    let mut rest = query.get(12..)?;
    let mut labels = Vec::new();
    loop {
        let (length, more) = rest.split_first()?;
        let length = usize::from(*length);
        if length == 0 {
            return Some(labels.join(&b'.'));
        }
        labels.push(more.get(..length)?.to_ascii_lowercase());
        rest = more.get(length..)?;
    }
}
