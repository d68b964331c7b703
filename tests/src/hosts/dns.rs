//! A DNS server whose zone a test changes while it runs.
//!
//! Owns the zone, the faults and the record of queries. It is an authority for every name: names that are not in the
//! zone do not exist.

use anyhow::{Context as _, Result};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// The largest UDP answer for a client without EDNS (RFC 1035 section 2.3.4).
const PLAIN_UDP: usize = 512;

/// How the server misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// It does not.
    #[default]
    None,
    /// It answers SERVFAIL.
    ServerFailure,
    /// It answers REFUSED.
    Refused,
    /// It does not answer at all.
    Silent,
    /// Every answer over UDP is empty and refers the client to TCP.
    Truncated,
    /// It delays its answers over UDP by this.
    Late(Duration),
}

/// A running DNS server, seen from the test.
#[derive(Debug, Clone, Default)]
pub struct Dns {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    zone: BTreeMap<String, Entry>,
    fault: Fault,
    queries: Vec<(String, String)>,
    /// When each came.
    times: Vec<Instant>,
    /// Who sent each.
    peers: Vec<IpAddr>,
}

#[derive(Debug, Clone)]
struct Entry {
    addresses: Vec<IpAddr>,
    alias: Option<String>,
    ttl: u32,
    /// Each answer has so many addresses of a family, the next ones of the list.
    each: Option<usize>,
    /// How many answers were given.
    turns: usize,
}

impl Entry {
    /// The addresses of one family in the next answer.
    fn next(&mut self, v4: bool) -> Vec<IpAddr> {
        let own = self.addresses.iter().filter(|ip| ip.is_ipv4() == v4);
        let own: Vec<IpAddr> = own.copied().collect();
        let (Some(each), false) = (self.each, own.is_empty()) else {
            return own;
        };
        let first = self.turns * each;
        self.turns += 1;
        (first..first + each)
            .map(|nth| own[nth % own.len()])
            .collect()
    }
}

impl Dns {
    /// From now on `name` has these addresses, for `ttl` seconds. No address of a family: the
    /// name exists and has none.
    pub fn set(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        self.insert(
            name,
            Entry {
                addresses: addresses.to_vec(),
                alias: None,
                ttl,
                each: None,
                turns: 0,
            },
        );
    }

    /// From now on each answer for `name` has `each` of these addresses, other ones than the answer before.
    pub fn rotate(&self, name: &str, addresses: &[IpAddr], each: usize, ttl: u32) {
        self.insert(
            name,
            Entry {
                addresses: addresses.to_vec(),
                alias: None,
                ttl,
                each: Some(each),
                turns: 0,
            },
        );
    }

    /// From now on `name` is an alias of `target` (CNAME).
    pub fn alias(&self, name: &str, target: &str, ttl: u32) {
        self.insert(
            name,
            Entry {
                addresses: Vec::new(),
                alias: Some(target.to_owned()),
                ttl,
                each: None,
                turns: 0,
            },
        );
    }

    /// From now on `name` does not exist.
    pub fn remove(&self, name: &str) {
        self.lock().zone.remove(&key(name));
    }

    /// From now on the server misbehaves like this.
    pub fn fail(&self, fault: Fault) {
        self.lock().fault = fault;
    }

    /// Every query so far: name in lower case without the last dot, and type.
    pub fn queries(&self) -> Vec<(String, String)> {
        self.lock().queries.clone()
    }

    /// When each of [`Self::queries`] came.
    pub fn times(&self) -> Vec<Instant> {
        self.lock().times.clone()
    }

    /// Who sent each of [`Self::queries`].
    pub fn peers(&self) -> Vec<IpAddr> {
        self.lock().peers.clone()
    }

    fn late(&self) -> Duration {
        match self.lock().fault {
            Fault::Late(by) => by,
            _ => Duration::ZERO,
        }
    }

    fn insert(&self, name: &str, entry: Entry) {
        self.lock().zone.insert(key(name), entry);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a message, or `None` if the server stays silent.
    fn answer(&self, message: &[u8], peer: IpAddr, limit: Option<usize>) -> Option<Vec<u8>> {
        let query = Message::from_vec(message).ok()?;
        let question = query.queries.first()?.clone();
        let mut state = self.lock();
        state.times.push(Instant::now());
        state.peers.push(peer);
        state.queries.push((
            key(&question.name().to_utf8()),
            question.query_type().to_string(),
        ));
        let mut reply = Message::response(query.metadata.id, OpCode::Query);
        reply.metadata.recursion_desired = query.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.add_query(question.clone());
        match state.fault {
            Fault::Silent => return None,
            Fault::ServerFailure => reply.metadata.response_code = ResponseCode::ServFail,
            Fault::Refused => reply.metadata.response_code = ResponseCode::Refused,
            Fault::Truncated if limit.is_some() => reply.metadata.truncation = true,
            Fault::None | Fault::Truncated | Fault::Late(_) => fill(
                &mut reply,
                &mut state.zone,
                question.name(),
                question.query_type(),
            ),
        }
        drop(state);
        let bytes = reply.to_vec().ok()?;
        let limit = limit.map(|limit| limit.max(usize::from(query.max_payload())));
        if limit.is_some_and(|limit| bytes.len() > limit) {
            return reply.truncate().to_vec().ok();
        }
        Some(bytes)
    }
}

/// Puts the records for the question into the reply, and follows aliases.
fn fill(reply: &mut Message, zone: &mut BTreeMap<String, Entry>, name: &Name, kind: RecordType) {
    let mut name = name.clone();
    // Limited, because a test may have made a loop of aliases.
    for _ in 0..16 {
        let Some(entry) = find(zone, &key(&name.to_utf8())) else {
            reply.metadata.response_code = ResponseCode::NXDomain;
            break;
        };
        if let Some(target) = entry
            .alias
            .as_ref()
            .and_then(|target| Name::from_utf8(format!("{}.", key(target))).ok())
        {
            reply.add_answer(Record::from_rdata(
                name,
                entry.ttl,
                RData::CNAME(CNAME(target.clone())),
            ));
            name = target;
            continue;
        }
        if kind != RecordType::A && kind != RecordType::AAAA {
            break;
        }
        for address in entry.next(kind == RecordType::A) {
            let data = match address {
                IpAddr::V4(v4) => RData::A(A(v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
            };
            reply.add_answer(Record::from_rdata(name.clone(), entry.ttl, data));
        }
        break;
    }
    if reply
        .answers
        .iter()
        .all(|r| r.record_type() == RecordType::CNAME)
    {
        // RFC 2308 section 3: "there is none" is cached for as long as this record says.
        let soa = SOA::new(Name::root(), Name::root(), 1, 60, 60, 60, 1);
        reply.add_authority(Record::from_rdata(Name::root(), 1, RData::SOA(soa)));
    }
}

/// The entry of a name, else of the nearest wildcard above it (RFC 4592).
fn find<'a>(zone: &'a mut BTreeMap<String, Entry>, name: &str) -> Option<&'a mut Entry> {
    let above = name
        .match_indices('.')
        .map(|(at, _)| format!("*{}", &name[at..]));
    let mut keys = std::iter::once(name.to_owned()).chain(above);
    let found = keys.find(|key| zone.contains_key(key))?;
    zone.get_mut(&found)
}

fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Listens at every address, and continues in tasks of its own.
pub(super) async fn serve(dns: Dns, addresses: Vec<SocketAddr>) -> Result<()> {
    for address in addresses {
        let udp = UdpSocket::bind(address)
            .await
            .with_context(|| format!("DNS over UDP at {address}"))?;
        let tcp = TcpListener::bind(address)
            .await
            .with_context(|| format!("DNS over TCP at {address}"))?;
        tokio::spawn(datagrams(dns.clone(), udp));
        tokio::spawn(streams(dns.clone(), tcp));
    }
    Ok(())
}

async fn datagrams(dns: Dns, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; 65536];
    loop {
        // An ICMP error for an earlier answer appears here. The server continues with the next query.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        if let Some(answer) = dns.answer(&buffer[..length], peer.ip(), Some(PLAIN_UDP)) {
            let socket = Arc::clone(&socket);
            let late = dns.late();
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                let _ = socket.send_to(&answer, peer).await;
            });
        }
    }
}

async fn streams(dns: Dns, listener: TcpListener) {
    while let Ok((stream, peer)) = listener.accept().await {
        tokio::spawn(conversation(dns.clone(), stream, peer.ip()));
    }
}

/// Queries and answers with a length of two bytes before each (RFC 1035 section 4.2.2).
async fn conversation(dns: Dns, mut stream: TcpStream, peer: IpAddr) -> Option<()> {
    loop {
        exchange(&dns, &mut stream, peer).await?;
    }
}

/// One query and its answer. `None` if the connection has ended.
pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    dns: &Dns,
    stream: &mut S,
    peer: IpAddr,
) -> Option<()> {
    let length = stream.read_u16().await.ok()?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await.ok()?;
    if let Some(answer) = dns.answer(&message, peer, None) {
        let length = u16::try_from(answer.len()).ok()?;
        stream.write_u16(length).await.ok()?;
        stream.write_all(&answer).await.ok()?;
        stream.flush().await.ok()?;
    }
    Some(())
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
