//! Origins that follow a script and record what they see.

use crate::case::{Do, Endpoint, Step, Steps, answer};
use crate::message::{Kind, Message, first};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// A request that reached an origin.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `a.0`: the first endpoint of `a`.
    pub endpoint: String,
    /// The connection to that endpoint, from 0.
    pub connection: usize,
    pub at: Instant,
    pub message: Message,
    /// What came after the request, once the script waited for it.
    pub after: Vec<u8>,
}

/// What all origins of one side saw, in order.
#[derive(Clone, Default)]
pub struct Record(watch::Sender<Vec<Seen>>);

impl Record {
    pub fn all(&self) -> Vec<Seen> {
        self.0.borrow().clone()
    }

    /// Waits for so many requests, with so many bytes of body in the last of them.
    pub async fn reached(&self, requests: usize, body: usize) {
        let enough = |all: &Vec<Seen>| {
            let last = requests.checked_sub(1).and_then(|last| all.get(last));
            last.is_some_and(|seen| seen.message.body.len() >= body)
        };
        self.0.subscribe().wait_for(enough).await.unwrap();
    }

    fn add(&self, seen: Seen) -> usize {
        let mut at = 0;
        self.0.send_modify(|all| {
            at = all.len();
            all.push(seen);
        });
        at
    }

    fn change(&self, at: usize, change: impl FnOnce(&mut Seen)) {
        self.0.send_modify(|all| change(&mut all[at]));
    }
}

/// An endpoint that is listening, or whose port is kept free.
pub struct Origin {
    pub address: SocketAddr,
    /// What an endpoint needs that accepts nothing.
    _kept: Kept,
}

#[expect(dead_code, reason = "sockets are kept open")]
enum Kept {
    Nothing,
    Bound(TcpSocket),
    Full(TcpListener, Vec<TcpStream>),
}

impl Origin {
    pub async fn new(name: &str, endpoint: &Endpoint, record: &Record) -> Self {
        if let Endpoint::Word(word) = endpoint {
            return match word.as_str() {
                "refuse" => refusing(),
                "silent" => silent().await,
                other => panic!("no endpoint is called {other}"),
            };
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let turns = Arc::new(Mutex::new(Turns {
            all: endpoint.turns().to_vec(),
            next: 0,
        }));
        let (name, record) = (name.to_owned(), record.clone());
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let conversation = Conversation {
                    endpoint: name.clone(),
                    connection,
                    record: record.clone(),
                    turns: Arc::clone(&turns),
                    stream,
                    bytes: Vec::new(),
                    head: 0,
                };
                tokio::spawn(conversation.run());
            }
        });
        Self {
            address,
            _kept: Kept::Nothing,
        }
    }
}

/// The socket stays bound, so that no other test listens at its port.
fn refusing() -> Origin {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    Origin {
        address: socket.local_addr().unwrap(),
        _kept: Kept::Bound(socket),
    }
}

/// A listener whose queue is full: the kernel drops each further SYN.
async fn silent() -> Origin {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut kept = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        kept.push(stream);
    }
    Origin {
        address,
        _kept: Kept::Full(listener, kept),
    }
}

struct Turns {
    all: Vec<Steps>,
    next: usize,
}

impl Turns {
    fn peek(&self) -> Vec<Step> {
        match self.all.get(self.next).or(self.all.last()) {
            Some(turn) => turn.all().to_vec(),
            None => vec![Step::Status(200)],
        }
    }
}

struct Conversation {
    endpoint: String,
    connection: usize,
    record: Record,
    turns: Arc<Mutex<Turns>>,
    stream: TcpStream,
    bytes: Vec<u8>,
    /// The length of the head at the start of `bytes`, as long as its body is not read.
    head: usize,
}

impl Conversation {
    async fn run(mut self) {
        while self.turn().await.is_some() {}
    }

    /// One turn. `None` if the connection is over.
    async fn turn(&mut self) -> Option<()> {
        let at_once =
            |turn: &[Step]| matches!(turn.first(), Some(Step::Text(word)) if word == "unasked");
        let mut seen = None;
        if !at_once(&self.turns.lock().unwrap().peek()) {
            let message = self.head().await?;
            seen = Some(self.record.add(Seen {
                endpoint: self.endpoint.clone(),
                connection: self.connection,
                at: Instant::now(),
                message,
                after: vec![],
            }));
        }
        let turn = {
            let mut turns = self.turns.lock().unwrap();
            let turn = turns.peek();
            turns.next += 1;
            turn
        };
        let first_word = match turn.first() {
            Some(Step::Text(word)) => word.as_str(),
            _ => "",
        };
        if let Some(at) = seen
            && first_word != "head"
        {
            self.body(at).await?;
        }
        for step in &turn {
            self.step(step, seen).await?;
        }
        Some(())
    }

    async fn step(&mut self, step: &Step, seen: Option<usize>) -> Option<()> {
        match step {
            Step::Status(status) => {
                let reason = http::StatusCode::from_u16(*status)
                    .ok()
                    .and_then(|status| status.canonical_reason())
                    .unwrap_or("Status");
                let text = match status {
                    204 | 304 => format!("{status} {reason}"),
                    _ => format!("{status} {reason}\n\nok"),
                };
                self.write(&answer(&text)).await
            }
            Step::Do(Do::Raw(text)) => self.write(&latin(text)).await,
            Step::Do(Do::Fill(text, count)) => self.write(text.repeat(*count).as_bytes()).await,
            Step::Do(Do::Wait(ms)) => {
                tokio::time::sleep(Duration::from_millis(*ms)).await;
                Some(())
            }
            Step::Do(other) => panic!("an origin cannot do {other:?}"),
            Step::Text(word) => match word.as_str() {
                "unasked" | "head" => Some(()),
                "body" => self.body(seen?).await,
                "close" => None,
                "reset" => {
                    self.stream.set_zero_linger().ok();
                    None
                }
                "hold" => self.after(seen, false).await,
                "echo" => self.after(seen, true).await,
                text => self.write(&answer(text)).await,
            },
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()
    }

    /// Reads until the other side closes, and perhaps returns what it reads.
    async fn after(&mut self, seen: Option<usize>, echo: bool) -> Option<()> {
        let mut bytes = self.bytes.split_off(self.head);
        self.bytes.clear();
        self.head = 0;
        loop {
            if !bytes.is_empty() {
                if let Some(at) = seen {
                    self.record.change(at, |seen| seen.after.extend(&bytes));
                }
                if echo {
                    self.write(&bytes).await?;
                }
                bytes.clear();
            }
            if !matches!(self.stream.read_buf(&mut bytes).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// The next head. What is not a request is recorded when the connection ends.
    async fn head(&mut self) -> Option<Message> {
        self.bytes.drain(..std::mem::take(&mut self.head));
        loop {
            if let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let (mut message, _) = first(&self.bytes[..end + 4], Kind::Request, false)?;
                message.body.clear();
                self.head = end + 4;
                return Some(message);
            }
            if !matches!(self.stream.read_buf(&mut self.bytes).await, Ok(1..)) {
                if !self.bytes.is_empty() {
                    let start = String::from_utf8_lossy(&self.bytes).into_owned();
                    self.bytes.clear();
                    return Some(Message {
                        start,
                        ..Message::default()
                    });
                }
                return None;
            }
        }
    }

    /// The body of the request, whose head is at the start of the buffer. What came is recorded as it comes.
    async fn body(&mut self, at: usize) -> Option<()> {
        loop {
            if let Some((message, used)) = first(&self.bytes, Kind::Request, false) {
                let whole = message.whole;
                self.record.change(at, |seen| seen.message = message);
                if whole {
                    self.bytes.drain(..used);
                    self.head = 0;
                    return Some(());
                }
            }
            if !matches!(self.stream.read_buf(&mut self.bytes).await, Ok(1..)) {
                return None;
            }
        }
    }
}

/// Characters up to 255 as one byte each, so that a case can write any byte.
pub fn latin(text: &str) -> Vec<u8> {
    text.chars()
        .flat_map(|c| match u8::try_from(u32::from(c)) {
            Ok(byte) => vec![byte],
            Err(_) => c.to_string().into_bytes(),
        })
        .collect()
}
