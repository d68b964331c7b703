//! The resolver against name servers of the test's own, on loopback.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

use egress_agent::dns::Resolver;
use egress_agent::sockets::SocketFactory;
use egress_core::policy::leases::Failure;
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Via {
    Udp,
    Tcp,
}

/// Fills in the response to one question; `false` leaves it unanswered.
type Script = fn(&str, RecordType, Via, &mut Message) -> bool;

struct Server {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<(String, RecordType, Via)>>>,
}

impl Server {
    async fn start(script: Script) -> Self {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(addr).await.unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut buf = [0; 4096];
            while let Ok((n, from)) = udp.recv_from(&mut buf).await {
                if let Some(reply) = reply(&buf[..n], Via::Udp, script, &log) {
                    udp.send_to(&reply, from).await.unwrap();
                }
            }
        });
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    while let Ok(n) = stream.read_u16().await {
                        let mut query = vec![0; n.into()];
                        stream.read_exact(&mut query).await.unwrap();
                        if let Some(reply) = reply(&query, Via::Tcp, script, &log) {
                            stream
                                .write_u16(reply.len().try_into().unwrap())
                                .await
                                .unwrap();
                            stream.write_all(&reply).await.unwrap();
                        }
                    }
                });
            }
        });
        Self { addr, asked }
    }

    fn asked(&self) -> Vec<(String, RecordType, Via)> {
        self.asked.lock().unwrap().clone()
    }
}

fn reply(
    query: &[u8],
    via: Via,
    script: Script,
    log: &Mutex<Vec<(String, RecordType, Via)>>,
) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).unwrap();
    let question = query.queries[0].clone();
    let (name, kind) = (question.name().to_ascii(), question.query_type());
    log.lock().unwrap().push((name.clone(), kind, via));
    let mut response = Message::response(query.metadata.id, OpCode::Query);
    response.add_query(question);
    script(&name, kind, via, &mut response).then(|| response.to_vec().unwrap())
}

fn resolver(servers: &[&Server]) -> Resolver {
    let sockets = Arc::new(SocketFactory::new().unwrap());
    Resolver::new(
        &servers.iter().map(|s| s.addr).collect::<Vec<_>>(),
        &sockets,
    )
    .unwrap()
}

fn name(s: &str) -> Name {
    Name::from_ascii(s).unwrap()
}

fn add(to: &mut Message, owner: &str, ttl: u32, ip: &str) {
    let data = match ip.parse().unwrap() {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    to.add_answer(Record::from_rdata(name(owner), ttl, data));
}

fn no_records(to: &mut Message, code: ResponseCode) {
    to.metadata.response_code = code;
    let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 1, 1, 1, 7);
    to.add_authority(Record::from_rdata(name("example."), 60, RData::SOA(soa)));
}

fn zone(host: &str, kind: RecordType, via: Via, r: &mut Message) -> bool {
    match (host, kind) {
        ("both.example.", RecordType::A) => add(r, host, 60, "192.0.2.1"),
        ("both.example.", RecordType::AAAA) => add(r, host, 30, "2001:db8::1"),
        ("alias.example.", RecordType::A) => {
            r.add_answer(Record::from_rdata(
                name(host),
                9,
                RData::CNAME(CNAME(name("both.example."))),
            ));
            add(r, "both.example.", 60, "192.0.2.1");
            add(r, "stranger.example.", 60, "192.0.2.66");
        }
        // Answered by the alias alone, as some servers do: the resolver asks on.
        ("alias.example.", RecordType::AAAA) => {
            r.add_answer(Record::from_rdata(
                name(host),
                9,
                RData::CNAME(CNAME(name("both.example."))),
            ));
        }
        ("big.example.", RecordType::A) if via == Via::Udp => r.metadata.truncation = true,
        ("big.example.", RecordType::A) => {
            (1..=200).for_each(|n| add(r, host, 60, &format!("198.51.100.{n}")));
        }
        ("empty.example." | "big.example.", _) => no_records(r, ResponseCode::NoError),
        ("broken.example.", _) => r.metadata.response_code = ResponseCode::ServFail,
        _ => no_records(r, ResponseCode::NXDomain),
    }
    true
}

#[tokio::test]
async fn both_families_are_one_answer_with_the_smallest_ttl() {
    let server = Server::start(zone).await;
    let resolver = resolver(&[&server]);
    for spelling in ["both.example", "both.example."] {
        let answer = resolver.resolve(spelling).await.unwrap();
        let seen: Vec<_> = answer.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(seen, ["192.0.2.1", "2001:db8::1"], "{spelling}");
        assert_eq!(answer.ttl, Duration::from_secs(30));
    }
    let asked = server.asked();
    assert!(
        asked.iter().all(|(n, _, _)| n == "both.example."),
        "no search domains: {asked:?}"
    );
    assert_eq!(asked.len(), 4, "no cache between two questions: {asked:?}");
}

#[tokio::test]
async fn an_alias_is_followed_and_its_ttl_counts() {
    let server = Server::start(zone).await;
    let answer = resolver(&[&server]).resolve("alias.example").await.unwrap();
    let seen: Vec<_> = answer.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(seen, ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(answer.ttl, Duration::from_secs(9));
}

#[tokio::test]
async fn a_truncated_answer_is_asked_again_over_tcp() {
    let server = Server::start(zone).await;
    let answer = resolver(&[&server]).resolve("big.example").await.unwrap();
    assert_eq!(answer.addresses.len(), 200);
    assert!(
        server
            .asked()
            .contains(&("big.example.".into(), RecordType::A, Via::Tcp))
    );
}

#[tokio::test]
async fn no_name_no_address_and_failure_are_told_apart() {
    let server = Server::start(zone).await;
    let resolver = resolver(&[&server]);
    assert_eq!(
        resolver.resolve("none.example").await,
        Err(Failure::NoSuchName)
    );
    assert_eq!(
        resolver.resolve("empty.example").await,
        Err(Failure::NoAddress)
    );
    let failed = resolver.resolve("broken.example").await;
    assert!(
        matches!(&failed, Err(Failure::Failed(why)) if why.contains(&server.addr.to_string())),
        "{failed:?}"
    );
}

#[tokio::test]
async fn the_next_server_is_asked_where_one_fails_or_is_silent() {
    let failing = Server::start(|_, _, _, r| {
        r.metadata.response_code = ResponseCode::ServFail;
        true
    })
    .await;
    let silent = Server::start(|_, _, _, _| false).await;
    let good = Server::start(zone).await;
    let answer = resolver(&[&failing, &silent, &good])
        .resolve("both.example")
        .await
        .unwrap();
    assert_eq!(answer.addresses.len(), 2);
    assert!(!silent.asked().is_empty());
}
