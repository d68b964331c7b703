//! The HTTPS listener of the webhook. The API server asks it, but workloads may be able to reach it: bodies, and all of them
//! together, are bounded.

use super::certificate::Certificate;
use super::review;
use crate::config::Admission;
use crate::listening::{self, Purpose};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

const PURPOSE: Purpose = Purpose {
    what: "the validating webhook",
    setting: "admission.address",
};
/// The path that the API server posts to.
const PATH: &str = "/validate";
/// The most bytes of a body: the new and the old object, each at most the 3 MiB that the API server takes.
const BODY: u64 = 7 << 20;
/// The most bytes of all bodies in memory, in KiB.
const BODIES: u32 = 14 << 10;

/// Answers the API server's questions. Does not return.
pub async fn serve_reviews(settings: Admission) {
    let certificate = Mutex::new(Certificate::of(settings.certificate));
    let room = Arc::new(Semaphore::new(BODIES as usize));
    let one = |stream| {
        let mut certificate = certificate.lock().unwrap_or_else(PoisonError::into_inner);
        serve_one(stream, certificate.current(), Arc::clone(&room))
    };
    listening::serve(settings.address, PURPOSE, one).await;
}

async fn serve_one(stream: TcpStream, tls: Option<Arc<ServerConfig>>, room: Arc<Semaphore>) {
    let Some(tls) = tls else {
        return;
    };
    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else {
        return;
    };
    let service = service_fn(|request: Request<Incoming>| {
        let room = Arc::clone(&room);
        async move { Ok::<_, Infallible>(answer(request, &room).await) }
    });
    let _ = listening::http()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, room: &Semaphore) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return text(StatusCode::NOT_FOUND, "want POST /validate\n");
    }
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "want POST\n");
    }
    let Some(length) = request.body().size_hint().exact() else {
        return text(StatusCode::LENGTH_REQUIRED, "want Content-Length\n");
    };
    if length > BODY {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n");
    }
    let share = u32::try_from(length / 1024 + 1).unwrap_or(BODIES);
    let Ok(_share) = room.acquire_many(share).await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    };
    let most = usize::try_from(BODY).unwrap_or(usize::MAX);
    let Ok(body) = Limited::new(request.into_body(), most).collect().await else {
        return text(StatusCode::BAD_REQUEST, "the body did not arrive\n");
    };
    let body = body.to_bytes();
    // A large object takes long enough to delay other tasks.
    let judged = tokio::task::spawn_blocking(move || review::answer(&body)).await;
    match judged {
        Ok(Ok(answer)) => {
            let mut response = text(StatusCode::OK, &answer.to_string());
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        }
        Ok(Err(malformed)) => text(StatusCode::BAD_REQUEST, &format!("{malformed}\n")),
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "judging the object failed\n",
        ),
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_owned()));
    *response.status_mut() = status;
    response
}
