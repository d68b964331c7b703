//! The answers of httpbin that the lab and the tests need.
//!
//! Owns the mapping from a request to a response. Shapes follow httpbin 0.9: keys sorted,
//! header names capitalised by word (`X-B3-Traceid`), two spaces of indentation.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// httpbin's own limit of `/delay`, in seconds.
const LONGEST_DELAY: f64 = 10.0;

/// More than httpbin's own limit: enough for the longest transfer of a bench.
const MOST_BYTES: usize = 256 << 20;

/// The answer to one request. `times`: how often this target was asked for, this time included.
pub(super) async fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
    scheme: &str,
    times: usize,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let host = parts
        .headers
        .get("host")
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let about = About {
        headers: headers(&parts.headers),
        url: format!("{scheme}://{host}{}", parts.uri),
        origin: peer.ip().to_string(),
        args: parts.uri.query().unwrap_or_default().to_owned(),
    };
    let path = parts.uri.path().to_owned();
    let mut words = path.trim_start_matches('/').splitn(2, '/');
    let (verb, argument) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    match verb {
        "" => page(),
        "headers" => json_body(&json!({ "headers": about.headers })),
        "post" | "put" | "anything" => match body.collect().await {
            Ok(data) => json_body(&about.post(&data.to_bytes())),
            Err(_) => status(StatusCode::BAD_REQUEST),
        },
        "status" => status(
            argument
                .parse()
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok())
                .unwrap_or(StatusCode::BAD_REQUEST),
        ),
        // httpbin does not have this path. It fails that many times.
        "flaky" if argument.parse().is_ok_and(|fails: usize| times <= fails) => {
            status(StatusCode::SERVICE_UNAVAILABLE)
        }
        "get" | "flaky" => json_body(&about.get()),
        "delay" => match argument.parse::<f64>() {
            Ok(seconds) if seconds >= 0.0 => {
                tokio::time::sleep(Duration::from_secs_f64(seconds.min(LONGEST_DELAY))).await;
                json_body(&about.get())
            }
            _ => status(StatusCode::NOT_FOUND),
        },
        "stream" => match argument.parse::<usize>() {
            Ok(count) => {
                let lines = (0..count.min(100)).map(|id| about.line(id).to_string());
                let lines = lines.collect::<Vec<_>>().join("\n") + "\n";
                with_type("application/json", lines.into())
            }
            Err(_) => status(StatusCode::NOT_FOUND),
        },
        "bytes" => match argument.parse::<usize>() {
            Ok(count) => with_type(
                "application/octet-stream",
                vec![b'x'; count.min(MOST_BYTES)].into(),
            ),
            Err(_) => status(StatusCode::NOT_FOUND),
        },
        // httpbin does not have this path. It counts a long upload without keeping it.
        "sink" => match count(body).await {
            Some(bytes) => json_body(&json!({ "bytes": bytes })),
            None => status(StatusCode::BAD_REQUEST),
        },
        _ => status(StatusCode::NOT_FOUND),
    }
}

/// The number of bytes of a body, unless it breaks off.
async fn count(mut body: Incoming) -> Option<usize> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.ok()?.data_ref().map_or(0, Bytes::len);
    }
    Some(bytes)
}

/// The parts of a request that httpbin repeats.
struct About {
    headers: Value,
    url: String,
    origin: String,
    args: String,
}

impl About {
    fn args(&self) -> Value {
        let pairs = self.args.split('&').filter(|pair| !pair.is_empty());
        let map: Map<String, Value> = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
        map.into()
    }

    fn get(&self) -> Value {
        json!({ "args": self.args(), "headers": self.headers, "origin": self.origin, "url": self.url })
    }

    fn post(&self, data: &[u8]) -> Value {
        let text = String::from_utf8_lossy(data).into_owned();
        json!({
            "args": self.args(), "data": text, "files": {}, "form": {}, "headers": self.headers,
            "json": serde_json::from_slice::<Value>(data).unwrap_or(Value::Null),
            "origin": self.origin, "url": self.url,
        })
    }

    fn line(&self, id: usize) -> Value {
        json!({ "args": self.args(), "headers": self.headers, "id": id, "origin": self.origin, "url": self.url })
    }
}

/// Headers as WSGI passes them: names capitalised by word, and values of one name joined.
fn headers(map: &hyper::HeaderMap) -> Value {
    let mut shown = Map::new();
    for name in map.keys() {
        let values: Vec<_> = map
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        shown.insert(capitalised(name.as_str()), values.join(",").into());
    }
    shown.into()
}

fn capitalised(name: &str) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_uppercase() + &rest.to_lowercase()
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

fn json_body(value: &Value) -> Response<Full<Bytes>> {
    with_type("application/json", format!("{value:#}\n").into())
}

fn page() -> Response<Full<Bytes>> {
    with_type(
        "text/html; charset=utf-8",
        "<!doctype html><title>Google</title>\n".into(),
    )
}

fn with_type(kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert(
        "content-type",
        hyper::header::HeaderValue::from_static(kind),
    );
    headers.insert(
        "server",
        hyper::header::HeaderValue::from_static("gunicorn/19.9.0"),
    );
    response
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_are_capitalised_by_word_as_httpbin_shows_them() {
        for (name, shown) in [
            ("x-b3-traceid", "X-B3-Traceid"),
            ("host", "Host"),
            ("x--y", "X--Y"),
        ] {
            assert_eq!(capitalised(name), shown);
        }
    }
}
