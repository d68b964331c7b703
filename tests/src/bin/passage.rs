//! Both ends of a connection that a proxy passes through by its server name: a real `ClientHello`, a ServerHello, a
//! first encrypted record, and then bytes that nobody encrypts, so that their cost is the proxy's.
//!
//! The client prints one line of JSON. A bench decides which proxy is between the two.

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_mins(1);
const CHUNK: usize = 256 << 10;
/// Bytes of a small message.
const SMALL: usize = 100;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The origin
    Serve { at: SocketAddr },
    /// An origin that accepts connections and answers nothing
    Silent { at: SocketAddr },
    /// Opens so many connections, 32 at a time, each for one small message
    Connections(Client),
    /// Sends so many bytes
    Up(Client),
    /// Receives so many bytes
    Down(Client),
    /// Sends so many small messages, each after the answer to the last
    Small(Client),
    /// Holds so many connections, each after one small message, until standard input ends
    Hold(Client),
}

#[derive(Parser)]
struct Client {
    #[arg(long)]
    host: String,
    #[arg(long)]
    count: u64,
    to: SocketAddr,
}

fn main() -> Result<()> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
    match Cli::parse().verb {
        Verb::Serve { at } => serve(at),
        Verb::Silent { at } => silent(at),
        Verb::Connections(client) => client.connections(),
        Verb::Up(client) => client.bulk(b'u'),
        Verb::Down(client) => client.bulk(b'd'),
        Verb::Small(client) => client.small(),
        Verb::Hold(client) => client.hold(),
    }
}

fn serve(at: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at)?;
    println!("{}", json!({ "listening": at.to_string() }));
    io::stdout().flush()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Many threads of held connections need little memory each.
            let thread = thread::Builder::new().stack_size(64 << 10);
            // A client that breaks off sees it itself.
            let _ = thread.spawn(move || answer(stream));
        }
    });
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn silent(at: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at)?;
    println!("{}", json!({ "listening": at.to_string() }));
    io::stdout().flush()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let thread = thread::Builder::new().stack_size(64 << 10);
            let _ = thread.spawn(move || io::copy(&mut stream, &mut io::sink()));
        }
    });
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    record(&mut stream)?;
    let mut hello = vec![22, 3, 3, 0, 44, 2, 0, 0, 40, 3, 3];
    hello.extend([7; 32]);
    // No session id, a cipher suite, no compression, no extensions.
    hello.extend([0, 0x13, 1, 0, 0, 0]);
    stream.write_all(&hello)?;
    let asked = record(&mut stream)?;
    let (Some(verb), Some(count)) = (asked.first(), asked.get(1..9)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let count = u64::from_be_bytes(count.try_into().unwrap_or_default());
    match verb {
        b'u' => {
            drain(&mut stream, count)?;
            stream.write_all(b"!")
        }
        b'd' => pour(&mut stream, count),
        _ => {
            let mut message = [0; SMALL];
            while stream.read_exact(&mut message).is_ok() {
                stream.write_all(&message)?;
            }
            Ok(())
        }
    }
}

/// The body of the next TLS record.
fn record(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn pour(stream: &mut TcpStream, mut left: u64) -> io::Result<()> {
    let chunk = vec![7; CHUNK];
    while left > 0 {
        let now = left.min(CHUNK as u64);
        stream.write_all(&chunk[..usize::try_from(now).unwrap_or(CHUNK)])?;
        left -= now;
    }
    Ok(())
}

fn drain(stream: &mut TcpStream, left: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut seen = 0;
    while seen < left {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => seen += count as u64,
        }
    }
    Ok(())
}

impl Client {
    fn hello(&self) -> Result<Vec<u8>> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(self.host.clone())?;
        let mut hello = Vec::new();
        ClientConnection::new(Arc::new(config), name)?.write_tls(&mut hello)?;
        Ok(hello)
    }

    /// A connection after its handshake.
    fn connect(&self, verb: u8) -> Result<TcpStream> {
        self.connect_with(&self.hello()?, verb)
    }

    fn connect_with(&self, hello: &[u8], verb: u8) -> Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&self.to, LIMIT).context("connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(hello)?;
        record(&mut stream).context("the ServerHello")?;
        let mut asked = vec![23, 3, 3, 0, 9, verb];
        asked.extend(self.count.to_be_bytes());
        stream.write_all(&asked)?;
        Ok(stream)
    }

    fn bulk(&self, verb: u8) -> Result<()> {
        let mut stream = self.connect(verb)?;
        let start = Instant::now();
        if verb == b'u' {
            pour(&mut stream, self.count)?;
            stream.read_exact(&mut [0])?;
        } else {
            drain(&mut stream, self.count)?;
        }
        println!("{}", json!({ "seconds": start.elapsed().as_secs_f64() }));
        Ok(())
    }

    fn connections(&self) -> Result<()> {
        const AT_A_TIME: usize = 32;
        let hello = self.hello()?;
        let left = AtomicU64::new(self.count);
        let one = || {
            let next =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            next.ok()
        };
        let run = || -> Result<()> {
            while one().is_some() {
                let mut stream = self.connect_with(&hello, b's')?;
                let mut message = [7; SMALL];
                stream.write_all(&message)?;
                stream.read_exact(&mut message)?;
            }
            Ok(())
        };
        let start = Instant::now();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(run)).collect();
            let mut ended = threads.into_iter().map(thread::ScopedJoinHandle::join);
            ended.try_for_each(|ended| ended.unwrap_or_else(|_| bail!("a thread panicked")))
        })?;
        let seconds = start.elapsed().as_secs_f64();
        println!("{}", json!({ "seconds": seconds }));
        Ok(())
    }

    fn small(&self) -> Result<()> {
        let mut stream = self.connect(b's')?;
        let mut message = [7; SMALL];
        let start = Instant::now();
        let mut each = Vec::new();
        for _ in 0..self.count {
            let start = Instant::now();
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
            each.push(start.elapsed());
        }
        let seconds = start.elapsed().as_secs_f64();
        each.sort();
        let p50 = each.get(each.len() / 2).context("no message")?;
        println!(
            "{}",
            json!({ "seconds": seconds, "p50": p50.as_secs_f64() })
        );
        Ok(())
    }

    fn hold(&self) -> Result<()> {
        let mut held = Vec::new();
        for number in 0..self.count {
            let mut stream = self
                .connect(b's')
                .with_context(|| format!("number {number}"))?;
            let mut message = [7; SMALL];
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
            held.push(stream);
        }
        ensure!(!held.is_empty(), "none");
        println!("{}", json!({ "open": held.len() }));
        io::stdout().flush()?;
        io::copy(&mut io::stdin(), &mut io::sink())?;
        Ok(())
    }
}
