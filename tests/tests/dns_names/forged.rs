//! Answers that are not the name server's, or not to the question: the agent believes none of them, for its own questions
//! and for those of workloads.

use crate::setting::{addresses, ask, ask_all};
use egress_tests::lab::{LabOptions, host, v4};
use egress_tests::netns::NetNs;
use egress_tests::queries::{NO_ERROR, SERVER_FAILURE};
use egress_tests::{Lab, wait_until};
use hickory_proto::op::{Message, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::str::FromStr as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The name server, and another host of its network.
const SERVER: u8 = 153;
const OTHER: u8 = 154;
/// The forged address of the first manner; the others follow.
const FORGED: u8 = 160;

/// What comes before or beside the answer; the first label of a name.
const MANNERS: [&str; 12] = [
    "id",
    "port",
    "source",
    "name",
    "type",
    "class",
    "no-question",
    "query",
    "second",
    "bailiwick",
    "instead",
    "late",
];

/// The agent asks for the late name only when a workload does, because it is below a wildcard.
fn name_of(manner: &str) -> String {
    let domain = if manner == "late" {
        "late.example"
    } else {
        "forged.example"
    };
    format!("{manner}.{domain}")
}

fn forged(manner: &str) -> IpAddr {
    let nth = MANNERS.iter().position(|one| *one == manner).unwrap();
    v4(FORGED + u8::try_from(nth).unwrap())
}

fn record(name: &str, address: IpAddr) -> Record {
    let IpAddr::V4(address) = address else {
        panic!("{address}")
    };
    let name = Name::from_str(&format!("{name}.")).unwrap();
    Record::from_rdata(name, 1, RData::A(A(address)))
}

/// A response to `query` without records.
fn response(query: &Message) -> Message {
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.add_query(query.queries[0].clone());
    reply
}

/// A name server whose network forges answers.
struct Forger {
    stop: Arc<AtomicBool>,
    /// Questions that were not answered, and who asked them.
    open: Arc<Mutex<Vec<(Message, SocketAddr)>>>,
    udp: UdpSocket,
    threads: Vec<JoinHandle<()>>,
}

impl Forger {
    fn start(outside: &NetNs) -> Self {
        let bind = |last, port| UdpSocket::bind(SocketAddr::new(v4(last), port)).unwrap();
        let sockets = || {
            (
                bind(SERVER, 53),
                bind(SERVER, 5353),
                bind(OTHER, 53),
                TcpListener::bind(SocketAddr::new(v4(SERVER), 53)).unwrap(),
            )
        };
        let (udp, port, source, tcp) = outside.run(sockets).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        tcp.set_nonblocking(true).unwrap();
        let (stop, open) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<Vec<_>>>::default(),
        );
        let own = udp.try_clone().unwrap();
        let (over, waiting) = (Arc::clone(&stop), Arc::clone(&open));
        let datagrams = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !over.load(Ordering::Relaxed) {
                let Ok((length, from)) = own.recv_from(&mut buffer) else {
                    continue;
                };
                let query = Message::from_vec(&buffer[..length]).unwrap();
                for (way, message) in answers(&query) {
                    let socket = [&own, &port, &source][way];
                    socket.send_to(&message.to_vec().unwrap(), from).unwrap();
                }
                if manner(&query) == "late" {
                    waiting.lock().unwrap().push((query, from));
                }
            }
        });
        let over = Arc::clone(&stop);
        let streams = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = tcp.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                thread::spawn(move || {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut bytes = vec![0; u16::from_be_bytes(length).into()];
                        stream.read_exact(&mut bytes).unwrap();
                        let reply = honest(&Message::from_vec(&bytes).unwrap())
                            .to_vec()
                            .unwrap();
                        stream
                            .write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes())
                            .unwrap();
                        stream.write_all(&reply).unwrap();
                    }
                });
            }
        });
        Self {
            stop,
            open,
            udp,
            threads: vec![datagrams, streams],
        }
    }
}

impl Drop for Forger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn manner(query: &Message) -> String {
    let name = query.queries[0].name().to_ascii().to_ascii_lowercase();
    name.split('.').next().unwrap().to_owned()
}

fn honest(query: &Message) -> Message {
    let mut reply = response(query);
    if query.queries[0].query_type() == RecordType::A {
        reply.add_answer(Record::from_rdata(
            query.queries[0].name().clone(),
            1,
            RData::A(A([198, 51, 100, host::ECHO].into())),
        ));
    }
    reply
}

/// What is sent for a question, and from where: the server, another port of it, another host.
fn answers(query: &Message) -> Vec<(usize, Message)> {
    let (honest, manner, question) = (honest(query), manner(query), &query.queries[0]);
    if !MANNERS.contains(&manner.as_str()) || question.query_type() != RecordType::A {
        return vec![(0, honest)];
    }
    let name = question.name().clone();
    let mut wrong = response(query);
    wrong.add_answer(record(&name_of(&manner), forged(&manner)));
    let asked = |query: Query| {
        let mut other = wrong.clone();
        other.queries = vec![query];
        other
    };
    let mut right = honest.clone();
    let before = match manner.as_str() {
        "id" => {
            wrong.metadata.id ^= 1;
            vec![(0, wrong)]
        }
        "port" => vec![(1, wrong.clone()), (1, wrong)],
        "source" => vec![(2, wrong.clone()), (2, wrong)],
        "name" => vec![(
            0,
            asked(Query::query(
                Name::from_str("echo.example.").unwrap(),
                RecordType::A,
            )),
        )],
        "type" => vec![(0, asked(Query::query(name, RecordType::TXT)))],
        "class" => {
            let mut other = Query::query(name, RecordType::A);
            other.set_query_class(DNSClass::CH);
            vec![(0, asked(other))]
        }
        "no-question" => {
            wrong.queries.clear();
            vec![(0, wrong)]
        }
        "query" => {
            let mut query = query.clone();
            query.add_answer(record(&name_of(&manner), forged(&manner)));
            vec![(0, query)]
        }
        "second" => return vec![(0, honest), (0, wrong.clone()), (0, wrong)],
        "bailiwick" => {
            for name in [
                "echo.example",
                "x.bailiwick.forged.example",
                "unlisted.example",
            ] {
                right.add_answer(record(name, forged(&manner)));
                right.add_authority(record(name, forged(&manner)));
                right.add_additional(record(name, forged(&manner)));
            }
            Vec::new()
        }
        "instead" => {
            right.answers = vec![
                record("echo.example", forged(&manner)),
                record("unlisted.example", forged(&manner)),
            ];
            Vec::new()
        }
        _ => return Vec::new(),
    };
    before.into_iter().chain([(0, right)]).collect()
}

fn connects(lab: &Lab, to: IpAddr) -> Option<i32> {
    lab.attempt("tcp", SocketAddr::new(to, 7)).unwrap().errno
}

#[test]
fn no_forged_answer_reaches_a_client_or_becomes_a_lease() {
    let lab = Lab::without_agent(LabOptions {
        servers: vec![SocketAddr::new(v4(SERVER), 53)],
        ..LabOptions::flags(&["--dns-intercept=auto", "--dns-min-ttl=1s"])
    });
    let mut lab = lab.unwrap();
    let forger = Forger::start(lab.outside());
    lab.start_agent().unwrap();
    let hosts: Vec<String> = MANNERS.iter().map(|manner| name_of(manner)).collect();
    // With the label, clients get the addresses of the answers although the hosts share a TCP port.
    let rule = |nth: usize, host: &str| {
        let resolution = if host.starts_with('*') {
            ""
        } else {
            "resolution: DNS"
        };
        format!(
            "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: host-{nth}, labels: {{networking.istio.io/enable-autoallocate-ip: 'false'}}}}
spec:
  hosts: ['{host}']
  ports: [{{number: 7, name: tcp, protocol: TCP}}]
  {resolution}
"
        )
    };
    let listed = hosts[..11].iter().map(String::as_str);
    let listed = listed.chain(["echo.example", "*.late.example"]).enumerate();
    let rules: Vec<String> = listed.map(|(nth, host)| rule(nth, host)).collect();
    let rules = rules.join("---");
    lab.rules("forged.yaml", &rules).unwrap();
    let place = lab.client_place();
    let answers = ask_all(&place, "connected", &hosts[..11], "192.0.2.1");
    let late = thread::scope(|scope| {
        let late = scope.spawn(|| ask(&place, "connected", &hosts[11], "192.0.2.1"));
        for (manner, answer) in MANNERS.iter().zip(&answers) {
            let expected = if *manner == "instead" {
                vec![]
            } else {
                vec![v4(host::ECHO)]
            };
            assert_eq!(addresses(answer), expected, "{manner}: {answer}");
        }
        late.join().unwrap()
    });
    assert_eq!(late["code"], SERVER_FAILURE, "{late}");
    // Each question that was left open gets its answer, with its own id, too late.
    let open = std::mem::take(&mut *forger.open.lock().unwrap());
    assert!(!open.is_empty());
    for (query, from) in open {
        let mut reply = response(&query);
        reply.add_answer(Record::from_rdata(
            query.queries[0].name().clone(),
            1,
            RData::A(A([198, 51, 100, FORGED + 11].into())),
        ));
        // Its port may be closed.
        let _ = forger.udp.send_to(&reply.to_vec().unwrap(), from);
    }
    wait_until("a name resolves after them", Duration::from_secs(5), || {
        (ask(&place, "connected", "echo.example", "192.0.2.1")["code"] == NO_ERROR).then_some(())
    })
    .unwrap();
    assert_eq!(connects(&lab, v4(host::ECHO)), None);
    for manner in MANNERS {
        assert_eq!(
            connects(&lab, forged(manner)),
            Some(libc::EPERM),
            "{manner}"
        );
    }
}
