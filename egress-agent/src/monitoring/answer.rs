//! The answers to HTTP requests: /metrics, /livez and /readyz. `server` owns connections and their limits.

use super::catalog;
use super::collect::{Collector, Snapshot};
use super::exposition::{Exposition, Format};
use super::process::Process;
use super::values::Values;
use crate::operate::reporter::Reporter;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long a scrape waits for current values. After that it shows older ones.
const SCRAPE: Duration = Duration::from_millis(500);
/// How long a probe waits for the engine, as a client of the admin socket does.
const PROBE: Duration = Duration::from_secs(2);
/// An engine that has not answered for so long does not live. A change of many rules takes a few seconds.
const DEAD: Duration = Duration::from_secs(30);

const TEXT: &str = "text/plain; charset=utf-8";

/// What the answers are made of.
pub struct Sources {
    /// Counters, readiness and the status.
    pub reporter: Arc<Reporter>,
    /// The last status.
    pub values: Collector,
}

/// Answers a request.
pub async fn answer<B: Body>(sources: &Sources, request: &Request<B>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut denied = text(StatusCode::METHOD_NOT_ALLOWED, "want GET or HEAD\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        denied.headers_mut().insert(ALLOW, allowed);
        return denied;
    }
    if !request.body().is_end_stream() {
        let why = "a request may not have a body\n";
        return text(StatusCode::PAYLOAD_TOO_LARGE, why);
    }
    match request.uri().path() {
        "/metrics" => {
            let accept = request.headers().get(ACCEPT);
            let accept = accept.and_then(|accept| accept.to_str().ok());
            metrics(sources, Format::wanted(accept.unwrap_or_default())).await
        }
        "/livez" => live(&sources.values).await,
        "/readyz" => ready(sources).await,
        _ => text(StatusCode::NOT_FOUND, "want /metrics, /livez or /readyz\n"),
    }
}

async fn metrics(sources: &Sources, format: Format) -> Response<Full<Bytes>> {
    let fresh = sources.values.fresh_within(SCRAPE).await;
    let snapshot = fresh.or_else(|| sources.values.last());
    let status = snapshot.as_ref();
    let mut out = Exposition::new(format);
    let values = Values {
        registry: sources.reporter.registry(),
        readiness: &sources.reporter.readiness(),
        status: status.map(|Snapshot { status, at }| (&**status, at.elapsed())),
        process: &Process::read(),
        now: SystemTime::now(),
    };
    catalog::write(&values, &mut out);
    response(StatusCode::OK, format.content_type(), out.end())
}

/// Whether the engine answers. While it is busy with a large change, it counts as alive for [`DEAD`].
async fn live(values: &Collector) -> Response<Full<Bytes>> {
    let fresh = values.fresh_within(PROBE / 2).await;
    let unanswered = values.unanswered();
    if is_dead(fresh.is_some(), unanswered) {
        let why = format!(
            "the engine has not answered for {} s\n",
            unanswered.as_secs()
        );
        return text(StatusCode::SERVICE_UNAVAILABLE, why);
    }
    text(StatusCode::OK, "alive\n")
}

/// Whether an engine is dead that answered or not, and whose oldest question waits for so long.
fn is_dead(answered: bool, unanswered: Duration) -> bool {
    !answered && unanswered >= DEAD
}

/// Whether `egress-agent status` exits with 0, and its reasons if not.
async fn ready(sources: &Sources) -> Response<Full<Bytes>> {
    let answers = sources.values.fresh_within(PROBE).await.is_some();
    let readiness = sources.reporter.readiness();
    if answers && readiness.ready() {
        return text(StatusCode::OK, "ready\n");
    }
    let mut why = "not ready\n".to_owned();
    let mut reasons = readiness.troubles();
    if readiness.age.is_none() && reasons.is_empty() {
        reasons.push("not proven yet".to_owned());
    }
    if !answers {
        reasons.push(format!("the engine has not answered within {PROBE:?}"));
    }
    for reason in reasons {
        // A write to a String does not fail.
        let _ = writeln!(why, "{reason}");
    }
    text(StatusCode::SERVICE_UNAVAILABLE, why)
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, TEXT, text)
}

fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_dead_only_after_a_long_silence() {
        for (answered, unanswered, dead) in [
            (false, Duration::ZERO, false),
            (false, DEAD.saturating_sub(PROBE), false),
            (false, DEAD, true),
            (true, DEAD, false),
        ] {
            assert_eq!(is_dead(answered, unanswered), dead, "{unanswered:?}");
        }
    }

    #[tokio::test]
    async fn a_busy_engine_is_alive() {
        // Nobody answers this collector.
        let live = live(&Collector::default()).await;
        assert_eq!(live.status(), StatusCode::OK);
    }
}
