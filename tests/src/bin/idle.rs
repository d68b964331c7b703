//! A client with many idle connections: it makes one request on each, over HTTP or TLS, reads the answer, and keeps all
//! connections until its standard input ends.
//!
//! It prints their number as one line of JSON. The tests decide what they may cost.

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Hold idle connections.
#[derive(Parser)]
struct Cli {
    /// How many
    #[arg(long)]
    count: usize,
    /// The host that is asked for
    #[arg(long)]
    host: String,
    /// Ask over TLS and trust the certificates of this file
    #[arg(long)]
    authority: Option<PathBuf>,
    target: SocketAddr,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
    let tls = cli.authority.as_ref().map(trusting).transpose()?;
    let (mut held, mut first) = (Vec::new(), None);
    for _ in 0..cli.count {
        match one(&cli, tls.as_ref()) {
            Ok(stream) => held.push(stream),
            Err(error) => {
                first.get_or_insert(format!("{error:#}"));
            }
        }
    }
    println!(
        "{}",
        json!({ "open": held.len(), "failed": cli.count - held.len(), "first": first })
    );
    io::stdout().flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn trusting(authority: &PathBuf) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// One connection after its answer.
fn one(cli: &Cli, tls: Option<&Arc<ClientConfig>>) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&cli.target, LIMIT).context("connect")?;
    stream.set_read_timeout(Some(LIMIT))?;
    let Some(config) = tls else {
        ask(&mut stream, &cli.host)?;
        return Ok(stream);
    };
    let name = ServerName::try_from(cli.host.clone())?;
    let mut session = StreamOwned::new(ClientConnection::new(Arc::clone(config), name)?, stream);
    ask(&mut session, &cli.host)?;
    Ok(session.sock)
}

/// Reads only the head, because nothing more is requested on this connection.
fn ask(stream: &mut (impl Read + Write), host: &str) -> Result<()> {
    write!(stream, "HEAD /get HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    stream.flush()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        ensure!(stream.read(&mut byte)? > 0, "closed without an answer");
        head.push(byte[0]);
    }
    ensure!(
        head.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    Ok(())
}
