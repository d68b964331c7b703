//! Reads a request head strictly, and rewrites it in the form that is judged and forwarded.
//!
//! A head that two readers could frame or address differently is rejected here with Envoy's status,
//! before the HTTP library sees a byte of it. It does not decide which hosts are allowed.

use super::head_error::HeadError;
use super::hop_by_hop::{UpgradeAsked, asked, elements, named_by};
use super::method::is_known_method;
use super::target::{DEL, Target, TargetError, parse_target};
use std::mem::MaybeUninit;

/// So many elements of `connection` are too many.
const MAX_NOMINATED: usize = 10;

/// Headers of one request (Envoy's `max_headers_count` default).
pub const MAX_HEADERS: usize = 100;

/// How the end of a request's body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its length in bytes; 0 without a body.
    Length(u64),
    /// By its chunks.
    Chunked,
}

/// A head that can be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The head in its canonical form, from the method to the empty line: with the canonical path and Host, and without
    /// `expect`.
    pub bytes: Vec<u8>,
    /// The one host that the request names; several Host lines are joined by commas, which no rule can list.
    pub authority: String,
    /// The body's.
    pub framing: Framing,
    /// The value of `expect`. It goes upstream, but the HTTP library must not act on it.
    pub expect: Option<Vec<u8>>,
    /// The value of `connection` of a websocket that also has `close`. It goes upstream, but the HTTP library must not
    /// act on it: a connection that becomes a websocket is not closed.
    pub connection: Option<Vec<u8>>,
    /// HTTP/1.0, if it is accepted: the client understands neither chunks nor 1xx responses.
    pub http10: bool,
}

/// Looks for a head at the beginning of `raw`. Returns it with its length in bytes.
pub(super) fn parse(
    raw: &[u8],
    limit: usize,
    http10: bool,
) -> Result<Option<(Head, usize)>, HeadError> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let used = match request.parse_with_uninit_headers(raw, &mut headers) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) if raw.len() > limit => return Err(HeadError::TooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
        Err(_) if is_other_version(raw) => return Err(HeadError::Version),
        Err(_) if has_del(raw) => return Err(TargetError::BadByte(DEL).into()),
        Err(error) => return Err(HeadError::Malformed(error)),
    };
    if used > limit {
        return Err(HeadError::TooLarge);
    }
    let method = request.method.unwrap_or_default();
    if !is_known_method(method) {
        return Err(HeadError::Method);
    }
    let http10 = match request.version {
        Some(1) => false,
        _ if http10 => true,
        _ => return Err(HeadError::Version),
    };
    let mut framing = framing(request.headers)?;
    // HTTP/1.0 has no chunks (RFC 9112 §6.1).
    if http10 && framing == Framing::Chunked {
        return Err(HeadError::TransferEncoding);
    }
    let raw_target = request.path.unwrap_or_default();
    if method == "CONNECT" {
        return Err(if is_authority_form(raw_target.as_bytes()) {
            HeadError::Connect
        } else {
            TargetError::Url.into()
        });
    }
    let Target { authority, path } = parse_target(method.as_bytes(), raw_target.as_bytes())?;
    let connection = fields(request.headers, "connection").join(&b',');
    let websocket = is_websocket(request.headers, &connection);
    // As in Envoy, `connection` can name the Host away, but not that of a websocket.
    let named = |token: &[u8]| !websocket && token.eq_ignore_ascii_case(b"host");
    let host = match &authority {
        Some(authority) => authority.clone(),
        None if elements(&connection).any(named) => return Err(HeadError::NoHost),
        None => host(request.headers)?,
    };
    if !host.bytes().all(is_of_authority) {
        return Err(HeadError::BadHost);
    }
    if !removes_only_what_it_may(&connection) {
        return Err(HeadError::Connection);
    }
    let kind = || fields(request.headers, "content-type");
    if method == "QUERY" && kind().iter().all(|kind| kind.is_empty()) {
        return Err(HeadError::QueryType);
    }
    // Bytes behind the head of a websocket are its own (Envoy's `handling_upgrade_`), and the origin gets none of them
    // before it has switched.
    let unframed = websocket && framing == Framing::Chunked;
    if unframed {
        framing = Framing::Length(0);
    }
    let kept = websocket && elements(&connection).any(|token| token.eq_ignore_ascii_case(b"close"));
    let written = Written {
        line: [method, &path, if http10 { "HTTP/1.0" } else { "HTTP/1.1" }],
        host: authority.is_some().then_some(&host),
        connection: &connection,
        left_out: [
            authority.is_some().then_some("host"),
            unframed.then_some("transfer-encoding"),
            kept.then_some("connection"),
        ],
    };
    let (bytes, expect) = written.head(request.headers, used);
    let head = Head {
        bytes,
        authority: host,
        framing,
        expect: expect.filter(|_| !http10),
        connection: kept.then_some(connection),
        http10,
    };
    Ok(Some((head, used)))
}

/// The canonical form of a head.
struct Written<'a> {
    /// Method, path and version.
    line: [&'a str; 3],
    /// The host of an absolute target, which replaces the client's.
    host: Option<&'a String>,
    connection: &'a [u8],
    /// Fields that the HTTP library does not get.
    left_out: [Option<&'static str>; 3],
}

impl Written<'_> {
    /// Returns the bytes and the value of `expect`.
    fn head(&self, headers: &[httparse::Header<'_>], used: usize) -> (Vec<u8>, Option<Vec<u8>>) {
        let [method, path, version] = self.line;
        let mut bytes = Vec::with_capacity(used + 16);
        for part in [method, " ", path, " ", version, "\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
        if let Some(host) = self.host {
            write_field(&mut bytes, "host", host.as_bytes());
        }
        let left_out = self.left_out.into_iter().flatten();
        if left_out.clone().any(|name| name == "connection") {
            write_field(&mut bytes, "connection", b"upgrade");
        }
        let mut expect = None;
        // Fields of this hop are removed here, so that no route matches one that the origin does not get.
        let named = named_by(self.connection);
        let ends_here = |name: &str| {
            let is_named = |named: &&[u8]| name.as_bytes().eq_ignore_ascii_case(named);
            named.iter().any(is_named)
        };
        for header in headers.iter().filter(|h| !ends_here(h.name)) {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("expect") {
                expect = Some(header.value.to_vec());
            } else if !left_out.clone().any(is) {
                write_field(&mut bytes, header.name, header.value);
            }
        }
        bytes.extend_from_slice(b"\r\n");
        (bytes, expect)
    }
}

/// The host of a target that is a path.
fn host(headers: &[httparse::Header<'_>]) -> Result<String, HeadError> {
    let host = match first_two(headers, "host") {
        (None, _) => return Err(HeadError::NoHost),
        (Some(host), None) => trimmed(host)?.to_owned(),
        (Some(_), Some(_)) => trimmed(&fields(headers, "host").join(&b','))?.to_owned(),
    };
    Ok(host)
}

/// Whether a request asks for a websocket.
fn is_websocket(headers: &[httparse::Header<'_>], connection: &[u8]) -> bool {
    let upgrade = fields(headers, "upgrade").join(&b',');
    asked(elements(connection), || elements(&upgrade)) == UpgradeAsked::Websocket
}

/// Whether a value of `connection` names only fields that a client may have removed.
fn removes_only_what_it_may(value: &[u8]) -> bool {
    let kept = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
    let tokens: Vec<_> = elements(value).collect();
    let is_kept = |token: &[u8]| {
        let named = kept
            .iter()
            .any(|kept| token.eq_ignore_ascii_case(kept.as_bytes()));
        named || token.starts_with(b":")
    };
    tokens.len() < MAX_NOMINATED && !tokens.iter().any(|token| is_kept(token))
}

fn write_field(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        bytes.extend_from_slice(part);
    }
}

fn trimmed(host: &[u8]) -> Result<&str, HeadError> {
    let host = str::from_utf8(host).map_err(|_| HeadError::BadHost)?;
    Ok(host.trim_matches([' ', '\t']))
}

/// The values of the first two fields of a name.
pub(super) fn first_two<'a>(
    headers: &[httparse::Header<'a>],
    name: &str,
) -> (Option<&'a [u8]>, Option<&'a [u8]>) {
    let mut named = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value);
    (named.next(), named.next())
}

fn fields<'a>(headers: &[httparse::Header<'a>], name: &str) -> Vec<&'a [u8]> {
    let named = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value).collect()
}

fn framing(headers: &[httparse::Header<'_>]) -> Result<Framing, HeadError> {
    let lengths = first_two(headers, "content-length");
    let codings = first_two(headers, "transfer-encoding");
    match (lengths, codings) {
        ((None, _), (None, _)) => Ok(Framing::Length(0)),
        ((Some(_), _), (Some(_), _)) => Err(HeadError::FramedTwice),
        ((Some(length), None), (None, _)) => length_of(length)
            .map(Framing::Length)
            .ok_or(HeadError::ContentLength),
        ((None, _), (Some(coding), None))
            if coding.trim_ascii().eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(Framing::Chunked)
        }
        ((None, _), (Some(_), _)) => Err(HeadError::TransferEncoding),
        ((Some(_), Some(_)), (None, _)) => Err(HeadError::ContentLength),
    }
}

/// Digits only; no sign, no list (RFC 9110 §8.6 would allow a list of equal numbers).
pub(super) fn length_of(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    // HTTP libraries use the two largest numbers for "unknown".
    let length = str::from_utf8(value).ok()?.parse().ok();
    length.filter(|length| digits && *length < u64::MAX - 1)
}

/// A request line of HTTP whose version is not 1.1; without a version it is HTTP/0.9.
fn is_other_version(raw: &[u8]) -> bool {
    let line = raw.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = str::from_utf8(line).unwrap_or_default().trim_ascii_end();
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default();
    if !is_known_method(method) || words.next().is_none() {
        return false;
    }
    match (words.next().map(str::as_bytes), words.next()) {
        (None, _) => raw.len() > line.len(),
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None) => {
            let digits = major.is_ascii_digit() && minor.is_ascii_digit();
            digits && (*major, *minor) != (b'1', b'1')
        }
        (Some(_), _) => false,
    }
}

/// Whether a request line has a DEL in its target.
fn has_del(raw: &[u8]) -> bool {
    let line = raw.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1);
    target.is_some_and(|target| target.contains(&DEL))
}

/// `host:port` (RFC 9112 §3.2.3).
fn is_authority_form(target: &[u8]) -> bool {
    let Some(colon) = target.iter().rposition(|byte| *byte == b':') else {
        return false;
    };
    let (host, port) = (&target[..colon], &target[colon + 1..]);
    let is_port = !port.is_empty() && port.iter().all(u8::is_ascii_digit);
    is_port && !host.is_empty() && host.iter().copied().all(is_of_authority)
}

/// The bytes of an authority (RFC 3986 §3.2).
pub(super) fn is_of_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(&byte)
}

#[cfg(test)]
#[path = "request_head_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "request_form_tests.rs"]
mod form_tests;
