//! Bytes of TLS passthrough move through pipes once the handshake shows that no second hello may come, and not before.

use crate::splice::*;
use crate::support::*;
use crate::tls::{NAME, real_hello, server_config};
use egress_agent::proxy::DenialReason;
use egress_core::routing::PortKind;
use egress_core::tls::second_hello::SecondHelloError;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[tokio::test]
async fn no_byte_moves_unseen_while_a_second_hello_may_come() {
    let retry = {
        let random = [
            0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65,
            0xb8, 0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2,
            0xc8, 0xa8, 0x33, 0x9c,
        ];
        let body = [&[3, 3][..], &random, &[0; 6]].concat();
        let message = [&[2, 0, 0, body.len() as u8][..], &body].concat();
        [&[22, 3, 3, 0, message.len() as u8][..], &message].concat()
    };
    // Records that are not watched for a hello: early data, and anything of a server.
    let record = [&[23, 3, 3, 0x40, 0][..], &[7; 0x4000]].concat();
    let (early, records) = (record.repeat(1000), record.repeat(2000));
    let (length, first) = (early.len(), real_hello(NAME));
    let ahead = first.len() + length;
    let (origin, go) = origin(move |stream, mut waits| {
        let (retry, records) = (retry.clone(), records.clone());
        async move {
            let (mut read, mut write) = stream.into_split();
            let writing = tokio::spawn(async move {
                write.write_all(&records).await.unwrap();
                write.write_all(&retry).await.unwrap();
                write
            });
            waits.wait_for(|go| *go).await.unwrap();
            let mut all = vec![0; ahead];
            read.read_exact(&mut all).await.unwrap();
            let _write = writing.await.unwrap();
            let mut rest = Vec::new();
            read.read_to_end(&mut rest).await.ok();
            assert!(rest.is_empty(), "the second hello passed");
        }
    })
    .await;
    let bed = Bed::new(tls_port(PortKind::Tls, NAME, &[origin])).await;
    let client = TcpStream::connect(bed.proxy).await.unwrap();
    let (mut read, mut write) = client.into_split();
    let writing = tokio::spawn(async move {
        write.write_all(&first).await.unwrap();
        write.write_all(&early).await.unwrap();
        write
    });
    // Both directions are full and wait.
    sleep(Duration::from_millis(500)).await;
    assert_eq!(bed.shared.in_use().pipes.used, 0);
    go.send_replace(true);
    let mut all = vec![0; 2000 * record.len()];
    timeout(PATIENCE, read.read_exact(&mut all))
        .await
        .unwrap()
        .unwrap();
    let mut write = writing.await.unwrap();
    assert_eq!(bed.shared.in_use().pipes.used, 0);
    write.write_all(&real_hello("evil.example")).await.unwrap();
    let other = SecondHelloError::OtherName("evil.example".into());
    assert_eq!(bed.denial().await, DenialReason::SecondHello(other));
    nothing_is_left(&bed).await;
}

#[tokio::test]
async fn encrypted_bytes_move_through_pipes_after_the_handshake() {
    let (server, roots) = server_config(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    let own = pattern(12);
    let expected = Arc::clone(&own);
    let (go, mut waits) = watch::channel(false);
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let mut stream = acceptor.accept(stream).await.unwrap();
        waits.wait_for(|go| *go).await.unwrap();
        check(&mut stream, &expected, MUCH).await;
        pour(&mut stream, &expected, MUCH).await;
        stream.shutdown().await.unwrap();
    });
    let bed = Bed::new(tls_port(PortKind::Tls, NAME, &[origin])).await;
    let stream = TcpStream::connect(bed.proxy).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(NAME).unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let sending = async {
        pour(&mut stream, &own, MUCH).await;
        stream.shutdown().await.unwrap();
    };
    tokio::join!(sending, async {
        pipes(&bed, 1).await;
        go.send_replace(true);
    });
    check(&mut stream, &own, MUCH).await;
    serving.await.unwrap();
    drop(stream);
    let record = bed.record().await;
    assert_eq!(record.host, NAME);
    assert!(record.bytes_received > MUCH as u64 && record.bytes_sent > MUCH as u64);
}
