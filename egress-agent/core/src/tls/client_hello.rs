//! Finds the server name in the first bytes of a TLS connection, as they arrive.
//!
//! Bounded and incremental: it takes bytes as they come from the socket, in pieces of any size and any number of TLS
//! records. It decrypts nothing and judges no cipher.

use crate::http::authority::{CanonicalHost, HostError, parse_server_name};
use std::collections::BTreeSet;
use thiserror::Error;

/// The most bytes of one flow that are read, including record headers.
pub const MAX_HELLO: usize = 64 * 1024;

/// `TLSPlaintext.length` may not exceed this (RFC 8446 §5.1).
const MAX_RECORD: usize = 1 << 14;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
const CONTENT_HANDSHAKE: u8 = 22;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
/// RFC 9849 §5; browsers send the same type with random bytes (GREASE).
const EXTENSION_ECH: u16 = 0xfe0d;

/// The content of a complete hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name in canonical form; `None` if the hello has none.
    pub name: Option<CanonicalHost>,
    /// The hello carries `encrypted_client_hello`. A greased one cannot be distinguished from a real one, so the outer
    /// name decides in both cases.
    pub ech: bool,
}

/// The result of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloOutcome {
    /// A valid beginning.
    NeedMore,
    /// A whole hello.
    Hello(ClientHello),
    /// Not a hello, whatever follows.
    Invalid(HelloError),
}

/// Why bytes are not an acceptable hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HelloError {
    /// The first record is not a TLS handshake record.
    #[error("not a TLS handshake record")]
    NotTls,
    /// A handshake record without bytes, which RFC 8446 §5.1 forbids.
    #[error("a TLS handshake record is empty")]
    EmptyRecord,
    /// A record beyond 2^14 bytes.
    #[error("a TLS record is longer than 16384 bytes")]
    RecordTooLong,
    /// The handshake begins with another message.
    #[error("the first handshake message is not a ClientHello")]
    NotClientHello,
    /// The hello needs more than [`MAX_HELLO`] bytes.
    #[error("the ClientHello is longer than 65536 bytes")]
    TooLong,
    /// The record continues after the hello.
    #[error("bytes follow the ClientHello in its record")]
    Excess,
    /// A length in the hello is too large, or leaves bytes over.
    #[error("the ClientHello is malformed")]
    Malformed,
    /// One extension type twice (RFC 8446 §4.2).
    #[error("the ClientHello has one extension twice")]
    DuplicateExtension,
    /// More than one server name, or one of an unknown type.
    #[error("the ClientHello has more than one server name")]
    SeveralNames,
    /// The server name is not one that a rule could list.
    #[error("the server name of the ClientHello: {0}")]
    BadName(HostError),
}

/// Reads a hello piece by piece.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// The handshake message without record headers.
    message: Vec<u8>,
    header: [u8; RECORD_HEADER],
    header_len: usize,
    record_left: usize,
    seen: usize,
}

impl HelloReader {
    /// Takes the next bytes. Do not use the reader after an outcome other than [`HelloOutcome::NeedMore`]; it does not
    /// read bytes of later records.
    pub fn push(&mut self, mut bytes: &[u8]) -> HelloOutcome {
        while !bytes.is_empty() {
            match self.step(&mut bytes) {
                Ok(None) => {}
                Ok(Some(hello)) => return HelloOutcome::Hello(hello),
                Err(error) => return HelloOutcome::Invalid(error),
            }
            if self.seen >= MAX_HELLO {
                return HelloOutcome::Invalid(HelloError::TooLong);
            }
        }
        HelloOutcome::NeedMore
    }

    /// The number of bytes taken. Once the hello is whole, these are the bytes of its records.
    pub const fn taken(&self) -> usize {
        self.seen
    }

    /// Consumes a record header or a piece of a record's body.
    fn step(&mut self, bytes: &mut &[u8]) -> Result<Option<ClientHello>, HelloError> {
        if self.record_left == 0 {
            self.header[self.header_len] = bytes[0];
            self.header_len += 1;
            self.seen += 1;
            *bytes = &bytes[1..];
            return self.check_header().map(|()| None);
        }
        let take = self.record_left.min(bytes.len());
        let (now, rest) = bytes.split_at(take);
        *bytes = rest;
        self.record_left -= take;
        self.seen += take;
        self.message.extend_from_slice(now);
        if self.message[0] != MESSAGE_CLIENT_HELLO {
            return Err(HelloError::NotClientHello);
        }
        let Some(&[_, high, middle, low]) = self.message.first_chunk::<HANDSHAKE_HEADER>() else {
            return Ok(None);
        };
        let whole = HANDSHAKE_HEADER + u32::from_be_bytes([0, high, middle, low]) as usize;
        if whole > MAX_HELLO {
            return Err(HelloError::TooLong);
        }
        if self.message.len() > whole || (self.message.len() == whole && self.record_left > 0) {
            return Err(HelloError::Excess);
        }
        if self.message.len() < whole {
            return Ok(None);
        }
        parse_body(&self.message[HANDSHAKE_HEADER..]).map(Some)
    }

    /// Checks the part of a record header that has come, so that garbage is rejected at its first byte.
    fn check_header(&mut self) -> Result<(), HelloError> {
        if self.header[0] != CONTENT_HANDSHAKE || (self.header_len > 1 && self.header[1] != 3) {
            return Err(HelloError::NotTls);
        }
        if self.header_len == RECORD_HEADER {
            let length = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
            match length {
                0 => return Err(HelloError::EmptyRecord),
                1..=MAX_RECORD => self.record_left = length,
                _ => return Err(HelloError::RecordTooLong),
            }
            self.header_len = 0;
        }
        Ok(())
    }
}

/// Reads a hello from all bytes of a flow so far.
pub fn parse(bytes: &[u8]) -> HelloOutcome {
    HelloReader::default().push(bytes)
}

/// The fields of `ClientHello` (RFC 8446 §4.1.2), each limited to the bytes that are left.
pub(super) fn parse_body(body: &[u8]) -> Result<ClientHello, HelloError> {
    let mut body = Cursor(body);
    let version_and_random = 2 + 32;
    body.take(version_and_random)?;
    if body.vector8()?.len() > 32 {
        return Err(HelloError::Malformed);
    }
    let ciphers = body.vector16()?;
    if ciphers.is_empty() || ciphers.len() % 2 != 0 || body.vector8()?.is_empty() {
        return Err(HelloError::Malformed);
    }
    let mut hello = ClientHello {
        name: None,
        ech: false,
    };
    if body.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Cursor(body.vector16()?);
    body.end()?;
    let mut seen = BTreeSet::new();
    while !extensions.0.is_empty() {
        let kind = extensions.number16()?;
        let data = extensions.vector16()?;
        if !seen.insert(kind) {
            return Err(HelloError::DuplicateExtension);
        }
        match kind {
            EXTENSION_SERVER_NAME => hello.name = Some(server_name(data)?),
            EXTENSION_ECH => hello.ech = true,
            _ => {}
        }
    }
    Ok(hello)
}

/// `ServerNameList` (RFC 6066 §3): exactly one `host_name`.
fn server_name(data: &[u8]) -> Result<CanonicalHost, HelloError> {
    const TYPE_HOST_NAME: u8 = 0;
    let mut data = Cursor(data);
    let mut list = Cursor(data.vector16()?);
    data.end()?;
    let kind = list.take(1)?;
    if kind != [TYPE_HOST_NAME] {
        return Err(HelloError::SeveralNames);
    }
    let name = list.vector16()?;
    if !list.0.is_empty() {
        return Err(HelloError::SeveralNames);
    }
    parse_server_name(name).map_err(HelloError::BadName)
}

/// Takes bytes from the front, never beyond the end.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number16(&mut self) -> Result<u16, HelloError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Result<&'a [u8], HelloError> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Result<&'a [u8], HelloError> {
        let length = self.number16()?;
        self.take(usize::from(length))
    }

    fn end(&self) -> Result<(), HelloError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(HelloError::Malformed)
        }
    }
}

#[cfg(test)]
#[path = "client_hello_tests.rs"]
pub(super) mod tests;
