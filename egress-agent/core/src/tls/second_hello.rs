//! Watches a TLS connection between its first `ClientHello` and its first encrypted record: the
//! client may be asked for a second hello (HelloRetryRequest, RFC 8446 §4.1.4), and the server
//! serves the name of the second hello.
//!
//! Bounded and incremental, as `client_hello`. It decrypts nothing and holds back no bytes: it
//! returns how many bytes must wait.

use super::client_hello::{HelloError, MAX_HELLO, parse_body};
use crate::http::authority::CanonicalHost;
use thiserror::Error;

const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const HEARTBEAT: u8 = 24;
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// `Random` of a HelloRetryRequest (RFC 8446 §4.1.3): SHA-256 of "HelloRetryRequest".
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// Why a connection may not continue after its first hello.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SecondHelloError {
    /// The second hello names another host, or none.
    #[error("the second ClientHello names {0}")]
    OtherName(String),
    /// It is not an acceptable hello.
    #[error("the second ClientHello: {0}")]
    Bad(#[from] HelloError),
    /// Another record is in the middle of it (RFC 8446 §5.1 forbids that).
    #[error("another record interrupts the second ClientHello")]
    Interrupted,
    /// It began, but did not end in time.
    #[error("the second ClientHello did not end in time")]
    Late,
}

/// See the module.
#[derive(Debug)]
pub struct SecondHello {
    /// The server name of the first hello.
    name: Option<CanonicalHost>,
    client: Records,
    message: Message,
    /// The client has sent ChangeCipherSpec, which announces encryption or only pretends to (RFC 8446 appendix D.4).
    cipher_changed: bool,
    held: usize,
    server: Server,
    over: bool,
}

impl SecondHello {
    /// Watches a connection after a first hello with this server name.
    pub fn new(name: Option<CanonicalHost>) -> Self {
        Self {
            name,
            client: Records::default(),
            message: Message::default(),
            cipher_changed: false,
            held: 0,
            server: Server::default(),
            over: false,
        }
    }

    /// A watch that has ended.
    pub fn ended() -> Self {
        Self {
            over: true,
            ..Self::new(None)
        }
    }

    /// Whether the client's first encrypted record has begun. Nothing after it is watched.
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Takes the next bytes of the client. Returns how many of the latest bytes must not reach the
    /// server yet: they may belong to a hello that is not whole.
    pub fn client(&mut self, mut bytes: &[u8]) -> Result<usize, SecondHelloError> {
        while !bytes.is_empty() && !self.over {
            match self.client.next(&mut bytes)? {
                Piece::Header => {
                    self.held += 1;
                    if let Some(kind) = self.client.begun() {
                        self.begin(kind)?;
                    }
                }
                Piece::Body(HANDSHAKE, body) => self.handshake(body)?,
                Piece::Body(..) => {}
            }
            if self.held > MAX_HELLO {
                return Err(HelloError::TooLong.into());
            }
        }
        if self.over {
            self.held = 0;
        }
        Ok(self.held)
    }

    /// A record of the client begins.
    fn begin(&mut self, kind: u8) -> Result<(), SecondHelloError> {
        // Only after a ServerHello that asks for no second hello is it certain that data is encrypted. Before it, data
        // is early data, and ChangeCipherSpec may come before a second hello.
        let settled = self.server.settled;
        if kind != HANDSHAKE && self.message.may_be_hello() {
            return Err(SecondHelloError::Interrupted);
        }
        if settled
            && (kind == APPLICATION_DATA || (self.cipher_changed && kind != CHANGE_CIPHER_SPEC))
        {
            self.over = true;
            return Ok(());
        }
        if kind == HANDSHAKE {
            return if self.client.left == 0 {
                Err(HelloError::EmptyRecord.into())
            } else {
                Ok(())
            };
        }
        self.cipher_changed |= kind == CHANGE_CIPHER_SPEC;
        self.held = 0;
        Ok(())
    }

    /// Takes a piece of the client's handshake messages.
    fn handshake(&mut self, mut body: &[u8]) -> Result<(), SecondHelloError> {
        while !body.is_empty() {
            let taken = self.message.take(&mut body, MAX_HELLO)?;
            self.held += taken;
            if !self.message.may_be_hello() {
                self.held = 0;
            }
            if self.message.is_whole() {
                let message = std::mem::take(&mut self.message);
                if message.kind() == Some(CLIENT_HELLO) {
                    let name = parse_body(&message.kept[MESSAGE_HEADER..])?.name;
                    if name != self.name {
                        let name =
                            name.map_or_else(|| "no host".to_owned(), CanonicalHost::into_string);
                        return Err(SecondHelloError::OtherName(name));
                    }
                }
                self.held = 0;
            }
        }
        Ok(())
    }

    /// Takes the next bytes of the server.
    pub fn server(&mut self, bytes: &[u8]) {
        if !self.over {
            self.server.push(bytes);
        }
    }
}

/// Splits a stream into TLS records.
#[derive(Debug, Default)]
struct Records {
    header: [u8; RECORD_HEADER],
    header_len: usize,
    /// Bytes of the record's body that have not come yet.
    left: usize,
}

enum Piece<'a> {
    /// One byte of a record's header.
    Header,
    /// Bytes of the body of a record of this type.
    Body(u8, &'a [u8]),
}

impl Records {
    /// The longest body of an encrypted record (RFC 5246 §6.2.3), and of a plain one.
    const MAX_ENCRYPTED: usize = (1 << 14) + 2048;
    const MAX_PLAIN: usize = 1 << 14;

    fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Piece<'a>, HelloError> {
        if self.left > 0 {
            let (body, rest) = bytes.split_at(self.left.min(bytes.len()));
            *bytes = rest;
            self.left -= body.len();
            return Ok(Piece::Body(self.header[0], body));
        }
        if self.header_len == RECORD_HEADER {
            self.header_len = 0;
        }
        self.header[self.header_len] = bytes[0];
        self.header_len += 1;
        *bytes = &bytes[1..];
        let [kind, major, _, high, low] = self.header;
        if !(CHANGE_CIPHER_SPEC..=HEARTBEAT).contains(&kind) || (self.header_len > 1 && major != 3)
        {
            return Err(HelloError::NotTls);
        }
        if self.header_len == RECORD_HEADER {
            self.left = usize::from(u16::from_be_bytes([high, low]));
            let most = if kind == APPLICATION_DATA {
                Self::MAX_ENCRYPTED
            } else {
                Self::MAX_PLAIN
            };
            if self.left > most {
                return Err(HelloError::RecordTooLong);
            }
        }
        Ok(Piece::Header)
    }

    /// The type of the record if its header has just become whole.
    fn begun(&self) -> Option<u8> {
        (self.header_len == RECORD_HEADER).then_some(self.header[0])
    }
}

/// A handshake message as it comes in. Only the header is kept if it is not a `ClientHello`.
#[derive(Debug, Default)]
struct Message {
    kept: Vec<u8>,
    left: usize,
}

impl Message {
    fn kind(&self) -> Option<u8> {
        self.kept.first().copied()
    }

    fn may_be_hello(&self) -> bool {
        self.kind() == Some(CLIENT_HELLO)
    }

    fn is_whole(&self) -> bool {
        self.kept.len() >= MESSAGE_HEADER && self.left == 0
    }

    /// Takes bytes up to the end of the header or of the message. Returns their number.
    fn take(&mut self, bytes: &mut &[u8], most: usize) -> Result<usize, HelloError> {
        let header = self.kept.len() < MESSAGE_HEADER;
        let wanted = if header { 1 } else { self.left };
        let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
        *bytes = rest;
        if header || self.may_be_hello() {
            self.kept.extend_from_slice(now);
        }
        if !header {
            self.left -= now.len();
        } else if let [kind, high, middle, low] = self.kept[..] {
            self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
            if kind == CLIENT_HELLO && MESSAGE_HEADER + self.left > most {
                return Err(HelloError::TooLong);
            }
        }
        Ok(now.len())
    }
}

/// The server's answer to the hello.
#[derive(Debug, Default)]
struct Server {
    records: Records,
    message: Vec<u8>,
    skip: usize,
    /// It sent a ServerHello that asks for no second hello.
    settled: bool,
    /// It answered with something other than a ServerHello, so it never settles.
    strange: bool,
}

impl Server {
    /// Header, version and random of a ServerHello.
    const ENOUGH: usize = MESSAGE_HEADER + 2 + 32;

    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.settled && !self.strange {
            match self.records.next(&mut bytes) {
                Ok(Piece::Body(HANDSHAKE, body)) => self.handshake(body),
                Ok(Piece::Body(..) | Piece::Header) => {}
                Err(_) => self.strange = true,
            }
        }
    }

    fn handshake(&mut self, body: &[u8]) {
        for byte in body {
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            self.message.push(*byte);
            let [kind, high, middle, low, ref rest @ ..] = self.message[..] else {
                continue;
            };
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            match kind {
                HELLO_REQUEST if length == 0 => self.message.clear(),
                SERVER_HELLO if length >= Self::ENOUGH - MESSAGE_HEADER => {
                    if self.message.len() < Self::ENOUGH {
                        continue;
                    }
                    if rest[2..] != RETRY {
                        self.settled = true;
                        return;
                    }
                    self.skip = MESSAGE_HEADER + length - Self::ENOUGH;
                    self.message.clear();
                }
                _ => {
                    self.strange = true;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "second_hello_tests.rs"]
mod tests;
