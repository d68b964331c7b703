//! The program `flows` for tests: many flows at the same time from one place, and how each ended.
//!
//! Owns how it is run and read, and the form of a flow. The test checks the results.

use crate::agent::beside;
use crate::child::Guarded;
use crate::place::Place;
use anyhow::{Context as _, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What is dialled.
    pub to: SocketAddr,
    /// By UDP; by TCP otherwise.
    pub udp: bool,
    /// What the client sends first.
    pub first: Vec<u8>,
    /// An HTTP/2 request with prior knowledge for this URL, instead of `first`.
    pub http2: Option<String>,
}

/// How a flow ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The call failed with EPERM.
    Denied,
    /// The connection came up and was closed without a byte.
    Closed,
    /// The proxy answered with this status.
    Status(u16),
    /// The host answered.
    Served,
    /// Something else, which a gate must not cause.
    Other(String),
}

impl Flow {
    /// An HTTP/1.1 request.
    pub fn http(to: SocketAddr, host: &str, path: &str) -> Self {
        let first = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        Self::bytes(to, first.into_bytes())
    }

    /// An HTTP/2 request with prior knowledge.
    pub fn http2(to: SocketAddr, host: &str, path: &str) -> Self {
        Self {
            http2: Some(format!("http://{host}{path}")),
            ..Self::bytes(to, Vec::new())
        }
    }

    /// A `ClientHello`; for an address it has no server name.
    pub fn tls(to: SocketAddr, host: &str) -> Result<Self> {
        let config = ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned())?;
        let mut hello = Vec::new();
        ClientConnection::new(Arc::new(config), name)?.write_tls(&mut hello)?;
        Ok(Self::bytes(to, hello))
    }

    /// These bytes.
    pub fn bytes(to: SocketAddr, first: Vec<u8>) -> Self {
        Self {
            to,
            udp: false,
            first,
            http2: None,
        }
    }

    /// A datagram.
    pub fn datagram(to: SocketAddr) -> Self {
        Self {
            udp: true,
            ..Self::bytes(to, b"word".to_vec())
        }
    }
}

/// Makes the flows in `place` and returns how each ended, in their order.
pub fn run(place: &Place<'_>, flows: &[Flow]) -> Result<Vec<End>> {
    let mut command = place.command(beside("flows")?)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Guarded::spawn(&mut command).context("cannot run flows")?;
    let asked: Vec<Value> = flows
        .iter()
        .map(|flow| {
            let to = flow.to.to_string();
            json!({"to": to, "udp": flow.udp, "first": flow.first, "http2": flow.http2})
        })
        .collect();
    let mut stdin = child.stdin.take().context("flows has a pipe")?;
    stdin.write_all(&serde_json::to_vec(&asked)?)?;
    drop(stdin);
    let stdout = child.stdout.take().context("flows has a pipe")?;
    let told: Vec<Value> = serde_json::from_reader(stdout).context("what flows said")?;
    anyhow::ensure!(told.len() == flows.len(), "{} ends", told.len());
    Ok(told.iter().map(end).collect())
}

fn end(told: &Value) -> End {
    match (told.as_str(), told.as_u64()) {
        (Some("denied"), _) => End::Denied,
        (Some("closed"), _) => End::Closed,
        (Some("served"), _) => End::Served,
        (_, Some(status)) => End::Status(u16::try_from(status).unwrap_or_default()),
        _ => End::Other(told.to_string()),
    }
}
