//! An origin that says who it is and what it saw. It keeps nothing of its requests but their number.

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpListener;

/// Serves until standard input ends. Then prints the number of requests.
pub(crate) async fn serve(name: String, at: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at).await?;
    println!("{}", json!({ "listening": at.to_string() }));
    std::io::stdout().flush()?;
    let (name, count) = (Arc::new(name), Arc::new(AtomicU64::new(0)));
    let (names, counts) = (Arc::clone(&name), Arc::clone(&count));
    let accept = async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let (name, count) = (Arc::clone(&names), Arc::clone(&counts));
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    count.fetch_add(1, Ordering::Relaxed);
                    answer(Arc::clone(&name), request)
                });
                // A client that breaks off sees it itself.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    };
    let ended =
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    tokio::select! {
        () = accept => {}
        ended = ended => drop(ended?),
    }
    println!("{}", json!({ "served": count.load(Ordering::Relaxed) }));
    Ok(())
}

async fn answer(
    name: Arc<String>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let length = body.collect().await?.to_bytes().len();
    let header = |name: &str| {
        let value = head.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or("-").to_owned()
    };
    let attempt = header("x-envoy-attempt-count");
    let path = head.uri.path();
    let status = if path.starts_with("/retry/") && attempt == "1" {
        503
    } else {
        200
    };
    let text = format!(
        "{name} {} {path} {length} {} {attempt}",
        head.method,
        header("x-added")
    );
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}
