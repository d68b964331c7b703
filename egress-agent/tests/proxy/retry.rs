//! The second ClientHello of a connection, after a real server's HelloRetryRequest.

use crate::raw::*;
use crate::support::*;
use crate::tls::{NAME, server_config};
use egress_agent::proxy::{DenialReason, Limits, Protocol};
use egress_core::routing::PortKind;
use egress_core::tls::second_hello::SecondHelloError;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// It is as long as [`NAME`].
const OTHER: &str = "www.goggle.com";

/// A server that requires a key share that no client sends at first.
fn asking() -> (ServerConfig, RootCertStore) {
    let mut provider = ring::default_provider();
    provider.kx_groups = vec![ring::kx_group::SECP384R1];
    server_config(provider)
}

fn connection(roots: RootCertStore) -> ClientConnection {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), ServerName::try_from(NAME).unwrap()).unwrap()
}

/// The bytes that the client would send.
fn written(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// The real server at the other end, and every byte that reached it.
async fn origin(config: ServerConfig) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let (config, seen) = (Arc::new(config), Arc::new(Mutex::new(Vec::new())));
    let all = Arc::clone(&seen);
    let addr = raw_origin(move |_, mut raw| {
        let (config, all) = (Arc::clone(&config), Arc::clone(&all));
        async move {
            let mut server = ServerConnection::new(config).unwrap();
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = raw.stream.read(&mut bytes).await {
                all.lock().unwrap().extend_from_slice(&bytes[..count]);
                let mut rest = &bytes[..count];
                while !rest.is_empty() && server.read_tls(&mut rest).is_ok() {
                    server.process_new_packets().ok();
                }
                let mut answer = Vec::new();
                while server.wants_write() {
                    server.write_tls(&mut answer).unwrap();
                }
                raw.send(&answer).await;
            }
        }
    })
    .await;
    (addr, seen)
}

/// The client's first hello, and its second one, which the server requests through the proxy.
async fn hellos(bed: &Bed, roots: RootCertStore) -> (Raw, Vec<u8>, Vec<u8>) {
    let mut client = connection(roots);
    let first = written(&mut client);
    let mut raw = bed.client().await;
    raw.send(&first).await;
    let header = raw.take(5).await.unwrap();
    let body = raw
        .take(usize::from(header[4]) + usize::from(header[3]) * 256)
        .await
        .unwrap();
    let retry = [header, body].concat();
    client.read_tls(&mut retry.as_slice()).unwrap();
    client.process_new_packets().unwrap();
    (raw, first, written(&mut client))
}

fn renamed(hello: &[u8]) -> Vec<u8> {
    let at = hello
        .windows(NAME.len())
        .position(|w| w == NAME.as_bytes())
        .unwrap();
    let mut hello = hello.to_vec();
    hello[at..at + NAME.len()].copy_from_slice(OTHER.as_bytes());
    hello
}

/// Splits the record of a handshake message into records of one byte.
fn in_single_bytes(record: &[u8]) -> Vec<u8> {
    record[5..]
        .iter()
        .flat_map(|byte| [22, 3, 3, 0, 1, *byte])
        .collect()
}

async fn bed(origin: SocketAddr, limits: Limits) -> Bed {
    let port = tls_port(PortKind::Tls, NAME, &[origin]);
    Bed::with(port, Some(destination("192.0.2.1:80")), limits).await
}

#[tokio::test]
async fn a_handshake_with_a_second_hello_passes_and_data_after_it_both_ways() {
    let (config, roots) = asking();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bed = bed(listener.local_addr().unwrap(), Limits::default()).await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::FullWithHelloRetryRequest));
        let mut got = vec![0; 1_000_000];
        stream.read_exact(&mut got).await.unwrap();
        stream.write_all(&got).await.unwrap();
        stream.shutdown().await.ok();
    });
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(bed.proxy).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let copy = sent.clone();
    let writing = tokio::spawn(async move { write.write_all(&copy).await.map(|()| write) });
    let mut got = vec![0; sent.len()];
    read.read_exact(&mut got).await.unwrap();
    assert!(got == sent);
    drop((writing.await.unwrap().unwrap(), read));
    assert_eq!(bed.record().await.protocol, Protocol::Tls);
}

#[tokio::test]
async fn a_second_hello_with_another_name_does_not_reach_the_server() {
    let ccs = [20, 3, 3, 0, 1, 1];
    let early = [&[23, 3, 3, 0, 200], [5; 200].as_slice()].concat();
    for dressed in 0..5 {
        let (config, roots) = asking();
        let (origin, seen) = origin(config).await;
        let bed = bed(origin, Limits::default()).await;
        let (mut raw, first, second) = hellos(&bed, roots).await;
        // rustls sends ChangeCipherSpec before it.
        let hello_at = second.windows(3).position(|w| w == [22, 3, 3]).unwrap();
        let other = renamed(&second[hello_at..]);
        let harmless = match dressed {
            1 => ccs.to_vec(),
            2 => early.clone(),
            3 => [ccs.as_slice(), &early].concat(),
            _ => vec![],
        };
        raw.send(&harmless).await;
        let other = if dressed == 4 {
            in_single_bytes(&other)
        } else {
            other
        };
        for piece in other.chunks(if dressed == 3 { 1 } else { other.len() }) {
            raw.send(piece).await;
        }
        let after = raw.rest().await;
        assert!(after.is_empty() || after == ccs, "{dressed}: {after:?}");
        let reason = DenialReason::SecondHello(SecondHelloError::OtherName(OTHER.into()));
        assert_eq!(bed.denial().await, reason, "{dressed}");
        let mut seen = seen.lock().unwrap().clone();
        let behind = seen.split_off(first.len());
        assert!(seen == first, "{dressed}");
        assert!(
            harmless.starts_with(&behind),
            "{dressed}: {} bytes more",
            behind.len()
        );
    }
}

#[tokio::test]
async fn a_second_hello_that_is_sent_before_it_is_asked_for_is_held_to_the_name_too() {
    let (config, roots) = asking();
    let (origin, seen) = origin(config).await;
    let bed = bed(origin, Limits::default()).await;
    let first = written(&mut connection(roots));
    let mut raw = bed.client().await;
    raw.send(&[first.clone(), renamed(&first)].concat()).await;
    raw.rest().await;
    // The proxy may already have dialled for the first hello.
    assert!(first.starts_with(&seen.lock().unwrap()));
    let reason = DenialReason::SecondHello(SecondHelloError::OtherName(OTHER.into()));
    assert_eq!(bed.denial().await, reason);
}

#[tokio::test]
async fn half_a_second_hello_is_not_waited_for_for_ever() {
    let (config, roots) = asking();
    let (origin, seen) = origin(config).await;
    let limits = Limits {
        name: Duration::from_millis(300),
        ..Limits::default()
    };
    let bed = bed(origin, limits).await;
    let (mut raw, first, second) = hellos(&bed, roots).await;
    raw.send(&second[..second.len() - 1]).await;
    raw.rest().await;
    let reason = DenialReason::SecondHello(SecondHelloError::Late);
    assert_eq!(bed.denial().await, reason);
    let seen = seen.lock().unwrap();
    assert!(seen.len() <= first.len() + 6, "no byte of it went on");
}
