//! A client that moves many bytes in each direction over one connection, and prints the time as one line of JSON.
//!
//! Owns sockets only. The test decides where it runs and how long it may take.

use clap::{Parser, Subcommand};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// A transfer without progress for this long ends.
const STALLED: Duration = Duration::from_secs(10);
const CHUNK: usize = 1 << 20;

/// Move many bytes over one connection.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    way: Way,
}

#[derive(Subcommand)]
enum Way {
    /// Send to a host that sends every byte back.
    Echo { to: SocketAddr, bytes: usize },
    /// Send to a server in this process, and back.
    Own { at: SocketAddr, bytes: usize },
}

fn main() -> ExitCode {
    let start = Instant::now();
    let moved = match Cli::parse().way {
        Way::Echo { to, bytes } => connect(to).and_then(|stream| both_ways(&stream, bytes)),
        Way::Own { at, bytes } => own(at, bytes),
    };
    match moved {
        Ok(()) => {
            println!("{}", json!({ "seconds": start.elapsed().as_secs_f64() }));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, STALLED)?;
    limit(&stream)?;
    Ok(stream)
}

fn limit(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(STALLED))?;
    stream.set_write_timeout(Some(STALLED))
}

/// Sends `bytes` bytes, and reads the same number at the same time.
fn both_ways(stream: &TcpStream, bytes: usize) -> io::Result<()> {
    thread::scope(|scope| {
        let reader = scope.spawn(move || drain(stream, bytes));
        pour(stream, bytes)?;
        reader
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the reader panicked")))
    })
}

fn own(at: SocketAddr, bytes: usize) -> io::Result<()> {
    let listener = TcpListener::bind(at)?;
    let to = listener.local_addr()?;
    thread::scope(|scope| {
        let server = scope.spawn(move || -> io::Result<()> {
            let (stream, _) = listener.accept()?;
            limit(&stream)?;
            drain(&stream, bytes)?;
            pour(&stream, bytes)
        });
        let stream = connect(to)?;
        pour(&stream, bytes)?;
        drain(&stream, bytes)?;
        stream.shutdown(Shutdown::Both)?;
        server
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the server panicked")))
    })
}

fn pour(mut stream: &TcpStream, bytes: usize) -> io::Result<()> {
    let chunk = vec![7; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(CHUNK);
        stream.write_all(&chunk[..now])?;
        left -= now;
    }
    Ok(())
}

fn drain(mut stream: &TcpStream, bytes: usize) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left -= read.min(left),
        }
    }
    Ok(())
}
