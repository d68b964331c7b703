//! A TLS client that answers a HelloRetryRequest with a `ClientHello` for another host, and prints
//! the result as one line of JSON.
//!
//! Owns one socket and checks no certificate. The tests check the result.

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::json;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// How long the other side may be silent.
const LIMIT: Duration = Duration::from_secs(5);

/// Send two hellos over one connection.
#[derive(Parser)]
struct Cli {
    /// Name in the first
    first: String,
    /// Name in the second, of the same length
    second: String,
    /// The destination
    target: SocketAddr,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    ensure!(cli.first.len() == cli.second.len(), "names of one length");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(cli.first.clone())?;
    let mut client = ClientConnection::new(Arc::new(config), name)?;
    let mut stream = TcpStream::connect_timeout(&cli.target, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(&written(&mut client)?)?;
    let retry = record(&mut stream).context("no answer to the first hello")?;
    client.read_tls(&mut retry.as_slice())?;
    client.process_new_packets()?;
    let mut second = written(&mut client)?;
    ensure!(!second.is_empty(), "the server asked for no second hello");
    let (from, to) = (cli.first.as_bytes(), cli.second.as_bytes());
    let at = second.windows(from.len()).position(|bytes| bytes == from);
    let at = at.context("no name in the second hello")?;
    second[at..at + to.len()].copy_from_slice(to);
    stream.write_all(&second)?;
    let end = loop {
        match record(&mut stream) {
            // The dummy change_cipher_spec that follows a HelloRetryRequest (RFC 8446 §D.4).
            Ok(record) if record[0] == 20 => {}
            Ok(record) if record[0] == 22 => break "handshake".to_owned(),
            Ok(record) => break format!("record {}", record[0]),
            Err(error) => break error.kind().to_string(),
        }
    };
    println!("{}", json!({ "end": end }));
    Ok(())
}

/// The bytes that the client wants to send.
fn written(client: &mut ClientConnection) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes)?;
    }
    Ok(bytes)
}

/// The next record, with its header (RFC 8446 §5.1).
fn record(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut record = vec![0; 5];
    stream.read_exact(&mut record)?;
    record.resize(
        5 + usize::from(u16::from_be_bytes([record[3], record[4]])),
        0,
    );
    stream.read_exact(&mut record[5..])?;
    Ok(record)
}
