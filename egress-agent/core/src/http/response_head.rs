//! Judges the head of an upstream's response before the HTTP library reads it: a response that two
//! readers could frame differently is the upstream's protocol error, as in Envoy.
//!
//! The library drops one of two framings and continues, so the code behind it cannot detect that.

use super::MAX_HEAD;
use super::hop_by_hop::remove_hop_by_hop;
use super::request_head::{MAX_HEADERS, first_two, length_of};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, TRANSFER_ENCODING};
use std::mem::MaybeUninit;
use thiserror::Error;

/// Why a response is the upstream's protocol error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResponseError {
    /// It is not an HTTP head.
    #[error("no HTTP response: {0}")]
    Malformed(httparse::Error),
    /// The head is larger than [`MAX_HEAD`].
    #[error("the response head is over 60 KiB")]
    TooLarge,
    /// The connection ended within the head.
    #[error("the connection ended within the response head")]
    CutOff,
    /// A `transfer-encoding` other than one `chunked`.
    #[error("the response has a transfer-encoding other than chunked")]
    TransferEncoding,
    /// A `content-length` that is not a number, or more than one.
    #[error("the response has a content-length that is not one number")]
    ContentLength,
    /// Both framings.
    #[error("the response has both content-length and transfer-encoding")]
    FramedTwice,
    /// 1xx or 204 with a body (RFC 9112 §6.3), 101 too.
    #[error("a response without a body frames one")]
    FramedNothing,
}

/// A whole head that the library may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Its bytes.
    pub length: usize,
    /// 1xx, after which another head follows. This excludes 101.
    pub interim: bool,
}

/// Checks the beginning of a response. `None` until the head is whole.
pub fn check_response(raw: &[u8]) -> Result<Option<ResponseHead>, ResponseError> {
    // httparse passes over them. No server sends them, and they may be the rest of another response.
    if let Some(b'\r' | b'\n') = raw.first() {
        return Err(ResponseError::Malformed(httparse::Error::NewLine));
    }
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    config.allow_obsolete_multiline_headers_in_responses(true);
    let parsed = config.parse_response_with_uninit_headers(&mut response, raw, &mut headers);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if raw.len() > MAX_HEAD => {
            return Err(ResponseError::TooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(ResponseError::Malformed(error)),
    };
    let status = response.code.unwrap_or_default();
    let of = |name: &str| first_two(response.headers, name);
    let interim = (100..200).contains(&status) && status != 101;
    let bodiless = interim || status == 101 || status == 204;
    match (of("content-length"), of("transfer-encoding")) {
        ((None, _), (None, _)) => {}
        ((Some(_), _), (Some(_), _)) => return Err(ResponseError::FramedTwice),
        ((Some(value), None), (None, _)) => {
            let length = length_of(value).ok_or(ResponseError::ContentLength)?;
            if bodiless && length > 0 {
                return Err(ResponseError::FramedNothing);
            }
        }
        ((Some(_), Some(_)), (None, _)) => return Err(ResponseError::ContentLength),
        ((None, _), (Some(coding), None))
            if coding.trim_ascii().eq_ignore_ascii_case(b"chunked") =>
        {
            if bodiless {
                return Err(ResponseError::FramedNothing);
            }
        }
        ((None, _), (Some(_), _)) => return Err(ResponseError::TransferEncoding),
    }
    Ok(Some(ResponseHead { length, interim }))
}

/// Envoy's words for a status (`source/common/http/codes.cc`, `CodeUtility::toString`). It does not pass on those of an
/// origin.
pub fn reason_phrase(status: StatusCode) -> &'static str {
    match status.as_u16() {
        102 | 103 | 418 | 451 => "Unknown",
        203 => "Non-Authoritative Information",
        599 => "Last Unassigned Server Error Code",
        _ => status.canonical_reason().unwrap_or("Unknown"),
    }
}

/// The header lines of a response without a body that frame the body of another one: that to GET, or that which the
/// client has. The HTTP library writes none of them. `head`: the request's method is HEAD.
pub fn framing_of_no_body(status: StatusCode, head: bool, headers: &HeaderMap) -> Vec<u8> {
    let names: &[HeaderName] = match (status, head) {
        (StatusCode::NOT_MODIFIED, _) => &[CONTENT_LENGTH],
        (_, true) => &[TRANSFER_ENCODING],
        _ => &[],
    };
    let mut lines = Vec::new();
    for (name, value) in names
        .iter()
        .filter_map(|name| Some((name, headers.get(name)?)))
    {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    let has_body = !matches!(status, StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT);
    if head && has_body && lines.is_empty() && !headers.contains_key(CONTENT_LENGTH) {
        // Envoy knows no length of the body that GET would get.
        lines.extend_from_slice(CHUNKED);
    }
    lines
}

/// The line of a body whose end only its chunks tell.
pub const CHUNKED: &[u8] = b"transfer-encoding: chunked\r\n";

/// Removes from a 1xx response the fields of one hop, and the framing of a body that it does not have.
pub fn prepare_interim(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers, false);
    headers.remove(CONTENT_LENGTH);
}

/// A 1xx response in the form for an HTTP/1.1 client.
pub fn interim_response(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let reason = reason_phrase(status);
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    let mut headers = headers.clone();
    prepare_interim(&mut headers);
    for (name, value) in &headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn a_response_head_is_read_as_envoy_reads_it() {
        use ResponseError::{ContentLength, FramedNothing, FramedTwice, TransferEncoding};
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", Ok(false)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 003\r\n\r\n", Ok(false)),
            ("HTTP/1.1 200\r\n\r\n", Ok(false)),
            ("HTTP/1.0 200 OK\r\n\r\n", Ok(false)),
            ("HTTP/1.1 200 OK\ncontent-length: 3\n\n", Ok(false)),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\t\r\n\r\n",
                Ok(false),
            ),
            ("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", Ok(false)),
            ("HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n", Ok(false)),
            ("HTTP/1.1 304 NM\r\ncontent-length: 3\r\n\r\n", Ok(false)),
            ("HTTP/1.1 100 Continue\r\n\r\n", Ok(true)),
            ("HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n", Ok(true)),
            ("HTTP/1.1 101 Switching\r\n\r\n", Ok(false)),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
                Err(FramedTwice),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ncontent-length: 3\r\n\r\n",
                Err(FramedTwice),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
                Err(TransferEncoding),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n",
                Err(TransferEncoding),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
                Err(TransferEncoding),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\n",
                Err(ContentLength),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\n\r\n",
                Err(ContentLength),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\n",
                Err(ContentLength),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
                Err(ContentLength),
            ),
            (
                "HTTP/1.1 204 No\r\ncontent-length: 3\r\n\r\n",
                Err(FramedNothing),
            ),
            (
                "HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n",
                Err(FramedNothing),
            ),
            (
                "HTTP/1.1 103 Early Hints\r\ncontent-length: 3\r\n\r\n",
                Err(FramedNothing),
            ),
            (
                "HTTP/1.1 101 Switching\r\ntransfer-encoding: chunked\r\n\r\n",
                Err(FramedNothing),
            ),
            (
                "HTTP/1.1 101 Switching\r\ncontent-length: 3\r\n\r\n",
                Err(FramedNothing),
            ),
        ] {
            let body = format!("{head}abc");
            let found = check_response(body.as_bytes());
            let wanted = expected.map(|interim| {
                let length = head.len();
                Some(ResponseHead { length, interim })
            });
            assert_eq!(found, wanted, "{head}");
            if expected.is_ok() {
                assert_eq!(
                    check_response(&head.as_bytes()[..head.len() - 1]),
                    Ok(None),
                    "{head}"
                );
            }
        }
        for head in [
            "SSH-2.0\r\n\r\n",
            "\0",
            "http/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\0c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
            "HTTP/1.1 99 X\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "\nHTTP/1.1 200 OK\r\n\r\n",
            "\r",
        ] {
            let found = check_response(head.as_bytes());
            assert!(
                matches!(found, Err(ResponseError::Malformed(_))),
                "{head:?}: {found:?}"
            );
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
        assert!(check_response(many.as_bytes()).is_err());
        let large = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(MAX_HEAD));
        assert_eq!(
            check_response(large.as_bytes()),
            Err(ResponseError::TooLarge)
        );
    }

    #[test]
    fn a_response_without_a_body_keeps_the_framing_of_another() {
        let of = |status: StatusCode, head, name: &'static str, value: &'static str| {
            let headers = crate::http::test_headers::headers(&[(name, value)]);
            String::from_utf8(framing_of_no_body(status, head, &headers)).unwrap()
        };
        let (ok, same) = (StatusCode::OK, StatusCode::NOT_MODIFIED);
        assert_eq!(
            of(same, false, "content-length", "5"),
            "content-length: 5\r\n"
        );
        let chunked = "transfer-encoding: chunked\r\n";
        assert_eq!(of(ok, true, "transfer-encoding", "chunked"), chunked);
        assert_eq!(of(ok, false, "transfer-encoding", "chunked"), "");
        assert_eq!(of(ok, true, "content-length", "5"), "", "the library's");
        assert_eq!(of(ok, true, "x", "1"), chunked, "no length is known");
        assert_eq!(of(StatusCode::NO_CONTENT, true, "x", "1"), "");
        assert_eq!(of(same, true, "transfer-encoding", "chunked"), "");
    }
}
