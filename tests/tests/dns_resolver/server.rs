//! Two nodes, and name servers that answer as a test's script says and misbehave over UDP.

use egress_tests::netns::NetNs;
use hickory_proto::op::{Message, OpCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    Udp,
    Tcp,
}

/// Fills in the response to one question; `false` leaves it unanswered.
pub type Script = fn(&str, RecordType, Via, &mut Message) -> bool;

/// What a server does over UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    Plain,
    /// So many answers with another id come first.
    Guessed(usize),
    /// So many answers from another port come first, which have a stranger's address.
    Elsewhere(usize),
    /// The question comes back in lower case.
    LowerCase,
}

/// One datagram or message that asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    pub id: u16,
    /// The name as it was spelt.
    pub name: String,
    pub kind: RecordType,
    pub via: Via,
    /// The client's.
    pub port: u16,
}

/// Two nodes: the resolver's, and the servers'.
pub struct Nodes {
    pub node: NetNs,
    outside: NetNs,
}

const NODE: &str = "203.0.113.1";
const OUTSIDE: [&str; 3] = ["203.0.113.11", "203.0.113.12", "2001:db8:1::13"];

impl Nodes {
    pub fn new() -> Self {
        let (node, outside) = (NetNs::new().unwrap(), NetNs::new().unwrap());
        let address = |text: &str| -> (IpAddr, u8) {
            let ip: IpAddr = text.parse().unwrap();
            (ip, if ip.is_ipv4() { 24 } else { 64 })
        };
        let near = [address(NODE), address("2001:db8:1::1")];
        let far = OUTSIDE.map(address);
        node.connect("out0", &near, &outside, "node0", &far)
            .unwrap();
        Self { node, outside }
    }

    /// Runs a test on the resolver's node.
    pub fn run<F: Future<Output = ()>>(&self, test: impl FnOnce() -> F + Send) {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(test());
        };
        self.node.run(run).unwrap();
    }

    pub fn outside(&self, nth: usize, manner: Manner, script: Script) -> Server {
        let at = SocketAddr::new(OUTSIDE[nth].parse().unwrap(), 53);
        Server::start(&self.outside, at, manner, script)
    }
}

pub struct Server {
    pub addr: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Starts in a namespace; within a runtime.
    pub fn start(inside: &NetNs, addr: SocketAddr, manner: Manner, script: Script) -> Self {
        let made = inside.run(|| {
            let tcp = std::net::TcpListener::bind(addr).unwrap();
            let [udp, other] = [addr.port(), 0]
                .map(|port| std::net::UdpSocket::bind(SocketAddr::new(addr.ip(), port)).unwrap());
            tcp.set_nonblocking(true).unwrap();
            for socket in [&udp, &other] {
                socket.set_nonblocking(true).unwrap();
            }
            (tcp, udp, other)
        });
        let (tcp, udp, other) = made.unwrap();
        let tcp = TcpListener::from_std(tcp).unwrap();
        let [udp, other] = [udp, other].map(|socket| UdpSocket::from_std(socket).unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut buf = [0; 4096];
            while let Ok((n, from)) = udp.recv_from(&mut buf).await {
                let Some(reply) = reply(&buf[..n], Via::Udp, from, script, &log) else {
                    continue;
                };
                for bytes in before(manner, &reply) {
                    let socket = match manner {
                        Manner::Elsewhere(_) => &other,
                        Manner::Plain | Manner::Guessed(_) | Manner::LowerCase => &udp,
                    };
                    socket.send_to(&bytes, from).await.unwrap();
                }
                let mut bytes = reply.to_vec().unwrap();
                if manner == Manner::LowerCase {
                    bytes[12..].make_ascii_lowercase();
                }
                udp.send_to(&bytes, from).await.unwrap();
            }
        });
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, from)) = tcp.accept().await {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    while let Ok(n) = stream.read_u16().await {
                        let mut query = vec![0; n.into()];
                        stream.read_exact(&mut query).await.unwrap();
                        if let Some(reply) = reply(&query, Via::Tcp, from, script, &log) {
                            let reply = reply.to_vec().unwrap();
                            let length = reply.len().try_into().unwrap();
                            stream.write_u16(length).await.unwrap();
                            stream.write_all(&reply).await.unwrap();
                        }
                    }
                });
            }
        });
        Self { addr, asked }
    }

    /// Every message that came, retransmissions included.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How many questions came over UDP and over TCP. A retransmission has the id and the
    /// spelling of its question: a slow machine sends some, and they are not questions.
    pub fn ways(&self) -> (usize, usize) {
        let mut udp = Vec::new();
        let mut tcp = Vec::new();
        for one in self.asked() {
            let question = (one.id, one.name, one.kind);
            let over = match one.via {
                Via::Udp => &mut udp,
                Via::Tcp => &mut tcp,
            };
            if !over.contains(&question) {
                over.push(question);
            }
        }
        (udp.len(), tcp.len())
    }
}

/// What comes before the answer.
fn before(manner: Manner, reply: &Message) -> Vec<Vec<u8>> {
    let mut wrong = reply.clone();
    wrong.answers.clear();
    add(&mut wrong, "both.example.", 60, "192.0.2.66");
    let count = match manner {
        Manner::Plain | Manner::LowerCase => 0,
        Manner::Guessed(count) => {
            wrong.metadata.id ^= 1;
            count
        }
        Manner::Elsewhere(count) => count,
    };
    vec![wrong.to_vec().unwrap(); count]
}

fn reply(
    query: &[u8],
    via: Via,
    from: SocketAddr,
    script: Script,
    log: &Mutex<Vec<Asked>>,
) -> Option<Message> {
    let query = Message::from_vec(query).unwrap();
    let question = query.queries[0].clone();
    let (name, kind) = (question.name().to_ascii(), question.query_type());
    let lower = name.to_lowercase();
    let (id, port) = (query.metadata.id, from.port());
    log.lock().unwrap().push(Asked {
        id,
        name,
        kind,
        via,
        port,
    });
    let mut response = Message::response(id, OpCode::Query);
    response.add_query(question);
    script(&lower, kind, via, &mut response).then_some(response)
}

/// A name, complete.
pub fn name(s: &str) -> Name {
    Name::from_ascii(s).unwrap()
}

/// Adds an address to a response.
pub fn add(to: &mut Message, owner: &str, ttl: u32, ip: &str) {
    let data = match ip.parse().unwrap() {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    to.add_answer(Record::from_rdata(name(owner), ttl, data));
}
