//! The client of a case over HTTP/2 with prior knowledge: each request waits for the response to the one before.

use crate::case::{Case, Do, Step, request};
use crate::client::Got;
use crate::message::{Kind, Message, first};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Only something that hangs takes this long.
const PATIENCE: Duration = Duration::from_secs(8);

/// Fields that HTTP/2 does not have, or has in another form.
const OF_HTTP1: [&str; 3] = ["host", "connection", "transfer-encoding"];

/// Runs the script of a case against a proxy.
pub async fn run(case: &Case, proxy: SocketAddr) -> Got {
    let stream = TcpStream::connect(proxy).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let began = Instant::now();
    let mut answers = Vec::new();
    for step in case.send.all() {
        match step {
            Step::Text(text) => {
                let bytes = request(text);
                let (mut message, used) = first(&bytes, Kind::Request, false).unwrap();
                // A body needs no length here.
                message.body.extend_from_slice(&bytes[used..]);
                one(&mut send, &message, &mut answers).await;
            }
            Step::Do(Do::Wait(ms)) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            // Each request waits for its response.
            Step::Do(Do::Answer(_)) => {}
            other => panic!("not over HTTP/2: {other:?}"),
        }
    }
    Got {
        answers,
        rest: Vec::new(),
        closed: driver.is_finished(),
        took: began.elapsed(),
    }
}

async fn one(send: &mut SendRequest<Bytes>, message: &Message, answers: &mut Vec<Message>) {
    let reset = |error: &h2::Error| Message {
        start: format!("HTTP/2 error {:?}", error.reason()),
        ..Message::default()
    };
    if let Err(error) = poll_fn(|cx| send.poll_ready(cx)).await {
        return answers.push(reset(&error));
    }
    let is_over = message.body.is_empty() && message.trailers.is_empty();
    let (response, mut stream) = match send.send_request(head(message), is_over) {
        Ok(both) => both,
        Err(error) => return answers.push(reset(&error)),
    };
    if !is_over {
        let body = Bytes::from(message.body.clone());
        // The proxy may reset the stream.
        let _ = stream.send_data(body, message.trailers.is_empty());
        if !message.trailers.is_empty() {
            let _ = stream.send_trailers(message.trailers.iter().map(field).collect());
        }
    }
    let whole = timeout(PATIENCE, whole(response, answers)).await;
    match whole {
        Ok(Ok(answer)) => answers.push(answer),
        Ok(Err(error)) => answers.push(reset(&error)),
        Err(_) => {}
    }
}

fn head(message: &Message) -> Request<()> {
    let mut words = message.start.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let host = message.header("host").unwrap();
    let mut head = Request::builder()
        .method(method)
        .uri(format!("http://{host}{target}"))
        .body(())
        .unwrap();
    let fields = message.headers.iter();
    let fields = fields.filter(|(name, _)| !OF_HTTP1.contains(&name.as_str()));
    *head.headers_mut() = fields.map(field).collect();
    head
}

fn field((name, value): &(String, String)) -> (http::HeaderName, http::HeaderValue) {
    (name.parse().unwrap(), value.parse().unwrap())
}

/// The final response. Interim ones are among the answers before.
async fn whole(response: ResponseFuture, answers: &mut Vec<Message>) -> Result<Message, h2::Error> {
    let mut response = pin!(response);
    let response: Response<_> = poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(early))) = response.poll_informational(cx) {
            answers.push(message_of(early.status().as_u16(), early.headers()));
        }
        response.as_mut().poll(cx)
    })
    .await?;
    let (head, mut body) = response.into_parts();
    let mut answer = message_of(head.status.as_u16(), &head.headers);
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => {
                body.flow_control().release_capacity(data.len())?;
                answer.body.extend_from_slice(&data);
            }
            Err(error) => {
                answer.whole = false;
                let end = format!(", then error {:?}", error.reason());
                answer.start.push_str(&end);
                return Ok(answer);
            }
        }
    }
    let trailers = body.trailers().await?;
    answer.trailers = trailers.iter().flat_map(texts).collect();
    Ok(answer)
}

fn message_of(status: u16, headers: &HeaderMap) -> Message {
    Message {
        start: format!("HTTP/2 {status}"),
        headers: texts(headers).collect(),
        whole: true,
        ..Message::default()
    }
}

fn texts(headers: &HeaderMap) -> impl Iterator<Item = (String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(move |(name, value)| (name.to_string(), text(value)))
        .collect::<Vec<_>>()
        .into_iter()
}
