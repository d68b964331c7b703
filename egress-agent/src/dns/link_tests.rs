//! Links to servers of the test's own, on loopback: how many connections there are, which certificates are valid, and what ends a
//! connection.

use super::super::name_servers::NameServers;
use super::super::server::Server;
use egress_core::dns::query::Question;
use hickory_resolver::proto::op::{Message, OpCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a server does with a connection.
#[derive(Clone, Copy)]
enum Habit {
    /// It answers this many questions, then closes.
    Answers(usize),
    /// It answers one question, and reads no more.
    Silent,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let mut file = NamedTempFile::new().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        file.write_all(pem.as_bytes()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { issuer, file }
    }

    fn acceptor(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A server, and how many connections it took.
struct Fake {
    at: SocketAddr,
    taken: Arc<AtomicUsize>,
}

async fn fake(acceptor: TlsAcceptor, habits: impl Fn(usize) -> Habit + Send + 'static) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, taken) = (
        listener.local_addr().unwrap(),
        Arc::<AtomicUsize>::default(),
    );
    let counted = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let habit = habits(counted.fetch_add(1, Ordering::SeqCst));
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                let answers = match habit {
                    Habit::Answers(count) => count,
                    Habit::Silent => 1,
                };
                for _ in 0..answers {
                    let length = stream.read_u16().await.ok()?;
                    let mut message = vec![0; usize::from(length)];
                    stream.read_exact(&mut message).await.ok()?;
                    let answer = answer(&Message::from_vec(&message).ok()?);
                    stream.write_u16(answer.len() as u16).await.ok()?;
                    stream.write_all(&answer).await.ok()?;
                    stream.flush().await.ok()?;
                }
                if matches!(habit, Habit::Silent) {
                    std::future::pending::<()>().await;
                }
                stream.shutdown().await.ok()
            });
        }
    });
    Fake { at, taken }
}

fn answer(asked: &Message) -> Vec<u8> {
    let mut reply = Message::response(asked.metadata.id, OpCode::Query);
    let question = asked.queries[0].clone();
    let data = RData::A(A::new(192, 0, 2, 1));
    reply.add_answer(Record::from_rdata(question.name().clone(), 60, data));
    reply.add_query(question);
    reply.to_vec().unwrap()
}

/// The server at this address, as its own certificate's name is expected to be, and the list that it is from.
fn asked(at: SocketAddr, name: &str, authority: &Authority) -> (Arc<Server>, NameServers) {
    let sockets = Arc::new(crate::sockets::SocketFactory::new().unwrap());
    let server = egress_core::dns::name_server::NameServer {
        address: at,
        tls: Some(name.into()),
    };
    let all = NameServers::new(&[server], Some(authority.file.path()), &sockets).unwrap();
    (all.make().remove(0), all)
}

async fn ask(server: &Arc<Server>, n: usize) -> Result<(), String> {
    let name = format!("n{n}.example.");
    let question = Question {
        name: name.trim_end_matches('.').into(),
        kind: RecordType::A,
    };
    let message = server.ask(&question).await?;
    assert_eq!(message.answers.len(), 1);
    assert_eq!(message.answers[0].name, Name::from_ascii(name).unwrap());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_come_together_share_a_connection() {
    let authority = Authority::new();
    let fake = fake(authority.acceptor("dns.example"), |_| {
        Habit::Answers(usize::MAX)
    })
    .await;
    let (server, _) = asked(fake.at, "dns.example", &authority);
    for _ in 0..3 {
        let all: Vec<_> = (0..100)
            .map(|n| {
                let server = Arc::clone(&server);
                tokio::spawn(async move { ask(&server, n).await })
            })
            .collect();
        for one in all {
            one.await.unwrap().unwrap();
        }
    }
    assert_eq!(fake.taken.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_closed_is_made_again() {
    let authority = Authority::new();
    for each in [1, 2, 3] {
        let fake = fake(authority.acceptor("dns.example"), move |_| {
            Habit::Answers(each)
        })
        .await;
        let (server, all) = asked(fake.at, "dns.example", &authority);
        for n in 0..12 {
            ask(&server, n).await.unwrap();
        }
        assert!(fake.taken.load(Ordering::SeqCst) >= 12 / each);
        assert_eq!(all.states()[0].failing, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nothing_arrives_is_given_up() {
    let authority = Authority::new();
    let habits = |n| {
        if n == 0 {
            Habit::Silent
        } else {
            Habit::Answers(usize::MAX)
        }
    };
    let fake = fake(authority.acceptor("dns.example"), habits).await;
    let (server, all) = asked(fake.at, "dns.example", &authority);
    ask(&server, 0).await.unwrap();
    let lost = ask(&server, 1).await;
    assert!(lost.unwrap_err().contains("no answer in"));
    assert!(all.states()[0].failing.is_some());
    ask(&server, 2).await.unwrap();
    assert_eq!(all.states()[0].failing, None);
    assert_eq!(fake.taken.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_certificate_of_an_authority_for_the_name_is_taken() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (certificate, name, trusted, why) in [
        ("dns.example", "dns.example", &authority, None),
        ("127.0.0.1", "127.0.0.1", &authority, None),
        ("*.ns.example", "dns.ns.example", &authority, None),
        (
            "other.example",
            "dns.example",
            &authority,
            Some("not valid for dns.example, but for other.example"),
        ),
        (
            "dns.example",
            "127.0.0.1",
            &authority,
            Some("not valid for 127.0.0.1"),
        ),
        (
            "dns.example",
            "dns.example",
            &other,
            Some("none of the authorities"),
        ),
    ] {
        let fake = fake(authority.acceptor(certificate), |_| {
            Habit::Answers(usize::MAX)
        })
        .await;
        let (server, all) = asked(fake.at, name, trusted);
        let result = ask(&server, 1).await;
        let failing = all.states().remove(0).failing;
        match why {
            None => assert!(result.is_ok() && failing.is_none(), "{name}: {result:?}"),
            Some(why) => {
                let shown = result.unwrap_err();
                assert!(
                    shown.contains(why) && failing.unwrap().contains(why),
                    "{shown}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_wait_for_a_failed_connection_share_its_error() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (server, all) = asked(listener.local_addr().unwrap(), "dns.example", &authority);
    let begin = Instant::now();
    let many: Vec<_> = (0..50)
        .map(|n| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { ask(&server, n).await })
        })
        .collect();
    for one in many {
        let text = one.await.unwrap().unwrap_err();
        assert!(text.contains("no answer in time"), "{text}");
    }
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(
        all.states()[0].failing.as_deref(),
        Some("no answer in time")
    );
    // The listener took the connections that nobody accepts.
    let mut connections = 0;
    while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await
    {
        connections += 1;
    }
    assert_eq!(connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_authorities_count_for_the_next_question() {
    let (authority, other) = (Authority::new(), Authority::new());
    let fake = fake(authority.acceptor("dns.example"), |_| {
        Habit::Answers(usize::MAX)
    })
    .await;
    let (server, all) = asked(fake.at, "dns.example", &authority);
    ask(&server, 1).await.unwrap();
    let trust = |of: &Authority| all.trust_of(Some(of.file.path())).unwrap();
    // The same ones end no connection.
    all.apply(trust(&authority));
    ask(&server, 2).await.unwrap();
    assert_eq!(fake.taken.load(Ordering::SeqCst), 1);
    all.apply(trust(&other));
    assert!(ask(&server, 3).await.is_err());
    all.apply(trust(&authority));
    ask(&server, 4).await.unwrap();
}
