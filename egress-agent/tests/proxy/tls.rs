//! TLS passthrough on real sockets: real handshakes end to end, and hellos that must not pass.

use crate::raw::{Raw, raw_origin, refused_address};
use crate::support::{Bed, PATIENCE, destination, tls_port};
use egress_agent::proxy::{DenialReason, Limits};
use egress_core::routing::PortKind;
use egress_core::tls::client_hello::{HelloError, HelloOutcome, parse};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub const NAME: &str = "www.google.com";

/// A server for `NAME`, and the certificates that a client must trust.
pub fn server_config(
    provider: rustls::crypto::CryptoProvider,
) -> (rustls::ServerConfig, rustls::RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (server, roots)
}

/// A TLS echo server for `NAME`, and the configuration of a client that trusts it.
async fn tls_origin() -> (SocketAddr, Arc<rustls::ClientConfig>) {
    let (server, roots) = server_config(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let (mut read, mut write) = tokio::io::split(&mut stream);
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                stream.shutdown().await.ok();
            });
        }
    });
    (addr, Arc::new(client))
}

/// A hello made by rustls.
pub fn real_hello(name: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_listed_name_passes_end_to_end_and_large_data_both_ways() {
    let (origin, config) = tls_origin().await;
    for kind in [PortKind::Tls, PortKind::Sniff] {
        let bed = Bed::new(tls_port(kind, NAME, &[origin])).await;
        let stream = TcpStream::connect(bed.proxy).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        let stream = TlsConnector::from(Arc::clone(&config))
            .connect(name, stream)
            .await
            .unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let sent: Vec<u8> = (0..2_000_000_u32)
            .map(|number| (number % 253) as u8)
            .collect();
        let copy = sent.clone();
        let writing = tokio::spawn(async move {
            write.write_all(&copy).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        writing.await.unwrap();
        assert_eq!(got, sent);
        drop(read);
        let record = bed.record().await;
        assert_eq!(
            (
                record.host.as_str(),
                record.upstream,
                record.flags.to_string().as_str()
            ),
            (NAME, Some(origin), "-")
        );
        assert!(
            record.bytes_received > 2_000_000 && record.bytes_sent > 2_000_000,
            "{record:?}"
        );
    }
}

#[tokio::test]
async fn a_hello_that_comes_byte_by_byte_reaches_the_origin_unchanged() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        let hello = raw.rest().await;
        raw.send(&hello).await;
    })
    .await;
    let bed = Bed::new(tls_port(PortKind::Tls, NAME, &[origin])).await;
    let mut client = bed.client().await;
    let hello = real_hello(NAME);
    for byte in &hello {
        client.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    // Half-closed: the origin reads to the end and still answers.
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, hello);
}

#[tokio::test]
async fn a_name_that_is_not_listed_or_cannot_be_read_is_closed_and_recorded() {
    let forbidden = raw_origin(|_, mut raw: Raw| async move {
        panic!("the origin was reached: {:?}", raw.rest().await);
    })
    .await;
    let suffix = real_hello("www.google.com.evil.example");
    let mut server_hello = real_hello(NAME);
    server_hello[5] = 2;
    for (what, bytes, reason) in [
        (
            "another name",
            real_hello("evil.example"),
            DenialReason::UnlistedName,
        ),
        ("a longer name", suffix, DenialReason::UnlistedName),
        (
            "no name",
            real_hello("192.0.2.1"),
            DenialReason::NoServerName,
        ),
        (
            "plain HTTP",
            b"GET / HTTP/1.1\r\nHost: www.google.com\r\n\r\n".to_vec(),
            DenialReason::BadHello(HelloError::NotTls),
        ),
        (
            "garbage",
            vec![0; 100],
            DenialReason::BadHello(HelloError::NotTls),
        ),
        (
            "another message",
            server_hello,
            DenialReason::BadHello(HelloError::NotClientHello),
        ),
    ] {
        let bed = Bed::new(tls_port(PortKind::Tls, NAME, &[forbidden])).await;
        let mut client = bed.client().await;
        client.send(&bytes).await;
        assert_eq!(client.rest().await, b"", "{what}");
        assert_eq!(bed.denial().await, reason, "{what}");
    }
}

#[tokio::test]
async fn half_a_hello_is_closed_when_the_client_leaves_or_the_time_is_up() {
    let hello = real_hello(NAME);
    let bed = Bed::new(tls_port(PortKind::Tls, NAME, &[])).await;
    let mut client = bed.client().await;
    client.send(&hello[..hello.len() / 2]).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"");
    assert_eq!(bed.denial().await, DenialReason::EndedEarly);

    let limits = Limits {
        name: Duration::from_millis(50),
        ..Limits::default()
    };
    for kind in [PortKind::Tls, PortKind::Sniff] {
        let bed = Bed::with(
            tls_port(kind, NAME, &[]),
            Some(destination("192.0.2.1:80")),
            limits,
        )
        .await;
        let mut client = bed.client().await;
        client.send(&hello[..hello.len() / 2]).await;
        assert_eq!(client.rest().await, b"");
        assert_eq!(bed.denial().await, DenialReason::NameTimeout);
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_be_had_closes_the_connection() {
    for (endpoints, flags) in [(vec![], "UH"), (vec![refused_address()], "URX,UF")] {
        let bed = Bed::new(tls_port(PortKind::Tls, NAME, &endpoints)).await;
        let mut client = bed.client().await;
        client.send(&real_hello(NAME)).await;
        assert_eq!(client.rest().await, b"");
        assert_eq!(bed.record().await.flags.to_string(), flags);
    }
}

#[tokio::test]
async fn a_second_hello_right_behind_the_first_is_denied_and_recorded() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        raw.rest().await;
    })
    .await;
    let bed = Bed::new(tls_port(PortKind::Tls, NAME, &[origin])).await;
    let mut client = bed.client().await;
    let both = [real_hello(NAME), real_hello("other.example")].concat();
    client.send(&both).await;
    assert_eq!(client.rest().await, b"");
    let record = bed.record().await;
    assert_eq!((&*record.host, &*record.flags.to_string()), (NAME, "UH"));
    bed.denial().await;
}

#[tokio::test]
async fn a_tunnel_lives_until_the_drains_deadline() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        let hello = raw.take(5).await.unwrap();
        raw.send(&hello).await;
        raw.rest().await;
    })
    .await;
    let bed = Bed::new(tls_port(PortKind::Tls, NAME, &[origin])).await;
    let mut client = bed.client().await;
    client.send(&real_hello(NAME)).await;
    assert_eq!(client.take(3).await.unwrap(), [22, 3, 1]);
    bed.drain
        .start(tokio::time::Instant::now() + Duration::from_millis(100));
    tokio::time::timeout(PATIENCE, bed.serving)
        .await
        .unwrap()
        .unwrap();
    client.rest().await;
}

#[test]
fn a_hello_of_a_real_client_is_read() {
    let HelloOutcome::Hello(hello) = parse(&real_hello("WWW.Google.com")) else {
        panic!("no hello")
    };
    assert_eq!(hello.name.unwrap().as_str(), NAME);
    let HelloOutcome::Hello(hello) = parse(&real_hello("192.0.2.1")) else {
        panic!("no hello")
    };
    assert_eq!(hello.name, None);
}
