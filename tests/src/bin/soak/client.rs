//! Clients over HTTP/1.1 and HTTP/2, each request judged.
//!
//! A connection serves some hundred requests; those to the host that is listed at times have connections of their own,
//! because the gate ends them with the rule.

use crate::asked::{Answer, Asked, Kind};
use crate::versions::Versions;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const HTTP1: usize = 16;
const HTTP2: usize = 4;
/// Requests at a time on each HTTP/2 connection.
const STREAMS: usize = 8;
/// Requests on one connection.
const EACH: usize = 500;
const LIMIT: Duration = Duration::from_secs(30);

/// What all tasks share.
struct Shared {
    to: SocketAddr,
    versions: Versions,
    next: AtomicU64,
    requests: u64,
    counts: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
    wrongs: AtomicU64,
    cut: AtomicU64,
}

/// Makes the requests, and prints what came of them.
pub(crate) async fn run(requests: u64, to: SocketAddr) -> Result<()> {
    let shared = Arc::new(Shared {
        to,
        versions: Versions::default(),
        next: AtomicU64::new(0),
        requests,
        counts: Mutex::default(),
        wrong: Mutex::default(),
        wrongs: AtomicU64::new(0),
        cut: AtomicU64::new(0),
    });
    shared.versions.follow();
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..HTTP1 {
        tasks.spawn(one_by_one(Arc::clone(&shared), number == 0));
    }
    for number in 0..HTTP2 {
        tasks.spawn(streams(Arc::clone(&shared), number == 0));
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let first = shared.wrong.lock().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{}",
        json!({
            "requests": shared.next.load(Ordering::Relaxed).min(requests),
            "wrong": shared.wrongs.load(Ordering::Relaxed),
            "first": *first,
            "cut": shared.cut.load(Ordering::Relaxed),
            "kinds": *shared.counts.lock().unwrap_or_else(PoisonError::into_inner),
            "seconds": seconds,
        })
    );
    // A thread still waits for standard input.
    std::process::exit(0)
}

impl Shared {
    fn next(&self, sometimes: bool) -> Option<Asked> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.requests).then(|| Asked::new(number, sometimes))
    }

    /// Sends one request and judges what comes back. False if the connection is over.
    async fn ask<F, E>(
        &self,
        asked: Asked,
        http2: bool,
        send: impl FnOnce(Request<Full<Bytes>>) -> F,
    ) -> bool
    where
        F: Future<Output = Result<hyper::Response<Incoming>, E>>,
        E: Into<anyhow::Error>,
    {
        let oldest = self.versions.oldest();
        let start = Instant::now();
        let sending = send(asked.request(http2));
        let answer = timeout(LIMIT, async {
            let (head, body) = sending.await.map_err(Into::into)?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
                took: start.elapsed(),
            })
        });
        let answer = answer.await.context("no answer").flatten();
        let versions = self.versions.since(oldest);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(format!("{:?}", asked.kind)).or_default() += 1;
        drop(counts);
        match answer {
            Ok(answer) if asked.fits(&answer, versions.clone()) => true,
            // The gate ends what was under way to a host when its rule is removed.
            Err(_) if asked.kind == Kind::Sometimes && versions.clone().any(|v| v % 2 == 1) => {
                self.cut.fetch_add(1, Ordering::Relaxed);
                false
            }
            Ok(answer) => {
                let what = format!(
                    "{:?} http2={http2} versions {versions:?}: {} {:?} {:?}",
                    asked.kind, answer.status, answer.body, answer.headers
                );
                self.note(what);
                true
            }
            Err(error) => {
                let what = format!(
                    "{:?} http2={http2} versions {versions:?}: {error:#}",
                    asked.kind
                );
                self.note(what);
                false
            }
        }
    }

    fn note(&self, what: String) {
        self.wrongs.fetch_add(1, Ordering::Relaxed);
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() < 10 {
            wrong.push(what);
        }
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>> {
        let stream = timeout(LIMIT, TcpStream::connect(self.to)).await??;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(stream))
    }
}

async fn one_by_one(shared: Arc<Shared>, sometimes: bool) {
    while shared.next.load(Ordering::Relaxed) < shared.requests {
        let connection = async { anyhow::Ok(http1::handshake(shared.connect().await?).await?) };
        let (mut sender, connection) = match connection.await {
            Ok(connection) => connection,
            Err(error) => {
                shared.note(format!("HTTP/1.1 connect: {error:#}"));
                continue;
            }
        };
        let connection = tokio::spawn(connection);
        for _ in 0..EACH {
            // An answer of the proxy itself may close the connection.
            if sender.ready().await.is_err() {
                break;
            }
            let Some(asked) = shared.next(sometimes) else {
                break;
            };
            if !shared
                .ask(asked, false, |request| sender.send_request(request))
                .await
            {
                break;
            }
        }
        drop(sender);
        let _ = connection.await;
    }
}

async fn streams(shared: Arc<Shared>, sometimes: bool) {
    while shared.next.load(Ordering::Relaxed) < shared.requests {
        let connection = async {
            let stream = shared.connect().await?;
            anyhow::Ok(http2::handshake(TokioExecutor::new(), stream).await?)
        };
        let (sender, connection) = match connection.await {
            Ok(connection) => connection,
            Err(error) => {
                shared.note(format!("HTTP/2 connect: {error:#}"));
                continue;
            }
        };
        let connection = tokio::spawn(connection);
        let mut streams = JoinSet::new();
        for _ in 0..STREAMS {
            let (shared, mut sender) = (Arc::clone(&shared), sender.clone());
            streams.spawn(async move {
                for _ in 0..EACH {
                    if sender.ready().await.is_err() {
                        break;
                    }
                    let Some(asked) = shared.next(sometimes) else {
                        break;
                    };
                    let go_on = shared
                        .ask(asked, true, |request| sender.send_request(request))
                        .await;
                    if !go_on {
                        break;
                    }
                }
            });
        }
        while streams.join_next().await.is_some() {}
        drop(sender);
        let _ = connection.await;
    }
}
