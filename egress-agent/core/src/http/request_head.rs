//! Reads a request head strictly, and rewrites it in the form that is judged and forwarded.
//!
//! A head that two readers could frame or address differently is rejected here with Envoy's status,
//! before the HTTP library sees a byte of it. It does not decide which hosts are allowed.

use super::head_error::HeadError;
use super::hop_by_hop::named_by;
use super::method::is_known_method;
use super::target::{Target, TargetError, parse_target};
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
    let framing = framing(request.headers)?;
    // HTTP/1.0 has no chunks (RFC 9112 §6.1).
    if http10 && framing == Framing::Chunked {
        return Err(HeadError::TransferEncoding);
    }
    let raw_target = request.path.unwrap_or_default();
    if method == "CONNECT" {
        return Err(if is_authority_form(raw_target.as_bytes()) {
            HeadError::Connect
        } else {
            TargetError::Form.into()
        });
    }
    let Target { authority, path } = parse_target(method.as_bytes(), raw_target.as_bytes())?;
    let (Some(first), further) = first_two(request.headers, "host") else {
        return Err(HeadError::NoHost);
    };
    let host = match (&authority, further) {
        (Some(authority), _) => authority.clone(),
        (None, None) => trimmed(first)?.to_owned(),
        (None, Some(_)) => trimmed(&fields(request.headers, "host").join(&b','))?.to_owned(),
    };
    if !host.bytes().all(is_of_authority) {
        return Err(HeadError::BadHost);
    }
    let connection = fields(request.headers, "connection").join(&b',');
    if !removes_only_what_it_may(&connection) {
        return Err(HeadError::Connection);
    }
    let kind = || fields(request.headers, "content-type");
    if method == "QUERY" && kind().iter().all(|kind| kind.is_empty()) {
        return Err(HeadError::QueryType);
    }
    let mut bytes = Vec::with_capacity(used + 16);
    let version = if http10 {
        " HTTP/1.0\r\n"
    } else {
        " HTTP/1.1\r\n"
    };
    for part in [method, " ", &path, version] {
        bytes.extend_from_slice(part.as_bytes());
    }
    let replaced = authority.is_some();
    if replaced {
        write_field(&mut bytes, "host", host.as_bytes());
    }
    let mut expect = None;
    // Fields of this hop are removed here, so that no route matches one that the origin does not get.
    let named = named_by(&connection);
    let ends_here = |name: &str| {
        named
            .iter()
            .any(|n| name.as_bytes().eq_ignore_ascii_case(n))
    };
    for header in request.headers.iter().filter(|h| !ends_here(h.name)) {
        if header.name.eq_ignore_ascii_case("expect") {
            expect = Some(header.value.to_vec());
        } else if !(replaced && header.name.eq_ignore_ascii_case("host")) {
            write_field(&mut bytes, header.name, header.value);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    let head = Head {
        bytes,
        authority: host,
        framing,
        expect: expect.filter(|_| !http10),
        http10,
    };
    Ok(Some((head, used)))
}

/// Whether a value of `connection` names only fields that a client may have removed.
fn removes_only_what_it_may(value: &[u8]) -> bool {
    let kept = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
    let tokens = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let tokens: Vec<_> = tokens.filter(|token| !token.is_empty()).collect();
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
