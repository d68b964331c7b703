//! A client that follows a script, and the responses that it got.

use crate::case::{Case, Do, Step, request};
use crate::message::{Kind, Message, first};
use crate::origin::{Record, latin};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::time::timeout;

/// Only something that hangs takes this long.
const PATIENCE: Duration = Duration::from_secs(8);

/// Enough for a side that closes the connection to do so.
const LINGER: Duration = Duration::from_millis(300);

/// The same if there is more to come. Envoy waits a second for the client to close.
const LONGER: Duration = Duration::from_millis(1500);

/// What a client got on its connection.
#[derive(Clone, Debug, Default)]
pub struct Got {
    /// All responses, interim ones too.
    pub answers: Vec<Message>,
    /// Bytes behind them.
    pub rest: Vec<u8>,
    /// Whether the proxy closed the connection.
    pub closed: bool,
    /// From the first byte sent to the last one received.
    pub took: Duration,
}

#[derive(Clone, Default)]
struct Received {
    bytes: Vec<u8>,
    ended: bool,
    last: Option<Instant>,
}

/// Runs the script of a case against a proxy, whose origins keep a record.
pub async fn run(case: &Case, proxy: SocketAddr, record: &Record) -> Got {
    let stream = TcpStream::connect(proxy).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut from, mut to) = stream.into_split();
    let (received, mut watching) = watch::channel(Received::default());
    let reading = tokio::spawn(async move {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let read = from.read_buf(&mut bytes).await;
            let more = matches!(read, Ok(1..));
            received.send_modify(|received| {
                received.bytes.extend(&bytes);
                received.ended = !more;
                if more {
                    received.last = Some(Instant::now());
                }
            });
            if !more {
                return;
            }
        }
    });
    let began = Instant::now();
    let mut methods = Vec::new();
    for step in case.send.all() {
        if let Step::Do(Do::Seen(requests, body)) = step {
            timeout(PATIENCE, record.reached(*requests, *body))
                .await
                .ok();
        } else {
            one(step, &mut to, &mut methods, &mut watching).await;
        }
    }
    let expected = case.answers.unwrap_or(methods.len());
    until(&mut watching, |got| got.finals(&methods) >= expected).await;
    // The proxy may send more than it should, and may close.
    let (answers, _) = watching.borrow().parse(&methods);
    let whole = answers.last().is_some_and(|last| last.whole);
    let linger = if whole { LINGER } else { LONGER };
    timeout(linger, watching.wait_for(|received| received.ended))
        .await
        .ok();
    let received = watching.borrow().clone();
    reading.abort();
    let (answers, rest) = received.parse(&methods);
    Got {
        answers,
        rest,
        closed: received.ended,
        took: received.last.map_or(Duration::ZERO, |last| last - began),
    }
}

async fn one(
    step: &Step,
    to: &mut OwnedWriteHalf,
    methods: &mut Vec<String>,
    watching: &mut watch::Receiver<Received>,
) {
    match step {
        Step::Text(word) if word == "half" => {
            to.shutdown().await.ok();
        }
        Step::Text(text) => {
            let bytes = request(text);
            if let Some((message, _)) = first(&bytes, Kind::Request, false) {
                methods.push(message.method().to_owned());
            }
            write(to, &bytes).await;
        }
        Step::Do(Do::Raw(text)) => {
            let bytes = latin(text);
            let mut at = 0;
            while let Some((message, used)) = first(&bytes[at..], Kind::Request, false) {
                if message.start.contains(" HTTP/") {
                    methods.push(message.method().to_owned());
                }
                at += used;
            }
            write(to, &bytes).await;
        }
        Step::Do(Do::Fill(text, count)) => write(to, text.repeat(*count).as_bytes()).await,
        Step::Do(Do::Wait(ms)) => tokio::time::sleep(Duration::from_millis(*ms)).await,
        Step::Do(Do::Answer(count)) => until(watching, |got| got.finals(methods) >= *count).await,
        Step::Do(Do::Bytes(count)) => until(watching, |got| got.bytes.len() >= *count).await,
        Step::Do(Do::Seen(..)) | Step::Status(_) => panic!("not done to a connection: {step:?}"),
    }
}

async fn write(to: &mut OwnedWriteHalf, bytes: &[u8]) {
    // The proxy may refuse the rest of a request and stop reading.
    timeout(PATIENCE, to.write_all(bytes)).await.ok();
}

async fn until(watching: &mut watch::Receiver<Received>, enough: impl Fn(&Received) -> bool) {
    timeout(
        PATIENCE,
        watching.wait_for(|received| received.ended || enough(received)),
    )
    .await
    .ok();
}

impl Received {
    /// How many final responses are there. An upgrade counts once its head is there.
    fn finals(&self, methods: &[String]) -> usize {
        let (answers, _) = self.parse(methods);
        answers
            .iter()
            .filter(|answer| answer.status() >= 200 && answer.whole || answer.status() == 101)
            .count()
    }

    fn parse(&self, methods: &[String]) -> (Vec<Message>, Vec<u8>) {
        let mut methods = methods.iter();
        let mut method = methods.next();
        let mut answers = Vec::new();
        let mut at = 0;
        while let Some((message, used)) = first(
            &self.bytes[at..],
            Kind::Response(method.map_or("GET", |m| m.as_str())),
            self.ended,
        ) {
            at += used;
            if message.status() >= 200 {
                method = methods.next();
            }
            answers.push(message);
        }
        (answers, self.bytes[at..].to_vec())
    }
}
