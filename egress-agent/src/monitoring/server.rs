//! The HTTP listener of metrics and health.

use super::answer::{self, Sources};
use super::collect::Collector;
use crate::config::ListenAddress;
use crate::listening::{self, Purpose};
use crate::operate::ask::Detail;
use crate::operate::reporter::Reporter;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::TcpStream;

const PURPOSE: Purpose = Purpose {
    what: "metrics and health",
    setting: "monitoring.address",
};

/// Serves metrics and health at `address`. Does not return.
pub async fn serve(address: ListenAddress, reporter: Arc<Reporter>) {
    let sources = Arc::new(Sources {
        reporter,
        values: Collector::default(),
    });
    let ask = || sources.reporter.status(Detail::Numbers);
    let one = |stream| serve_one(stream, Arc::clone(&sources));
    tokio::join!(
        sources.values.run(ask),
        listening::serve(address, PURPOSE, one)
    );
}

async fn serve_one(stream: TcpStream, sources: Arc<Sources>) {
    let service = service_fn(|request: Request<Incoming>| {
        let sources = Arc::clone(&sources);
        async move { Ok::<_, Infallible>(answer::answer(&sources, &request).await) }
    });
    // A client that sends no HTTP is not worth a line.
    let _ = listening::http()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
