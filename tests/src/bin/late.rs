//! A client whose requests get 504 when their route's timeout has passed. Prints one line of JSON: how long after the
//! timeout the heads of the responses came, in milliseconds.
//!
//! Owns the clock. A bench decides which proxy it measures.

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde_json::json;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Cli {
    #[arg(long)]
    host: String,
    #[arg(long)]
    path: String,
    #[arg(long)]
    count: usize,
    /// Connections at a time
    #[arg(long)]
    threads: usize,
    /// The timeout, in milliseconds
    #[arg(long)]
    after: u32,
    to: SocketAddr,
}

fn main() {
    let cli = Cli::parse();
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let (mut late, mut failures) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cli.threads)
            .map(|_| scope.spawn(|| requests(&cli, &next)))
            .collect();
        for ended in threads.into_iter().map(thread::ScopedJoinHandle::join) {
            for result in ended.into_iter().flatten() {
                match result {
                    Ok(time) => late.push(time),
                    Err(error) => failures.push(format!("{error:#}")),
                }
            }
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    late.sort_by(f64::total_cmp);
    let percentile = |percent: usize| late.get((late.len() * percent).div_ceil(100).max(1) - 1);
    println!(
        "{}",
        json!({
            "count": late.len(),
            "failed": failures.len(),
            "first": failures.first(),
            "seconds": seconds,
            "earliest": late.first(),
            "p50": percentile(50),
            "p99": percentile(99),
            "latest": late.last(),
        })
    );
}

fn requests(cli: &Cli, next: &AtomicUsize) -> Vec<Result<f64>> {
    let mut stream = None;
    let mut results = Vec::new();
    while next.fetch_add(1, Ordering::Relaxed) < cli.count {
        results.push(request(cli, &mut stream).inspect_err(|_| stream = None));
    }
    results
}

/// Milliseconds between the timeout and the head of the response.
fn request(cli: &Cli, stream: &mut Option<BufReader<TcpStream>>) -> Result<f64> {
    let reader = if let Some(reader) = stream {
        reader
    } else {
        let fresh = TcpStream::connect_timeout(&cli.to, LIMIT).context("connect")?;
        fresh.set_read_timeout(Some(LIMIT))?;
        fresh.set_nodelay(true)?;
        stream.insert(BufReader::new(fresh))
    };
    let (path, host) = (&cli.path, &cli.host);
    let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let start = Instant::now();
    reader.get_mut().write_all(head.as_bytes())?;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let took = start.elapsed();
    ensure!(line.starts_with("HTTP/1.1 504 "), "{line:?}");
    let mut length = 0;
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "cut off");
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    std::io::copy(
        &mut std::io::Read::take(reader, length),
        &mut std::io::sink(),
    )?;
    Ok((took.as_secs_f64() - f64::from(cli.after) / 1e3) * 1e3)
}
