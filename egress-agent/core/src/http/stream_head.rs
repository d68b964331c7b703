//! The head of an HTTP/2 request in the form that is judged and forwarded.
//!
//! The HTTP/2 library has checked the fields (RFC 9113 §8.2, §8.3). What two readers could still read differently,
//! `:authority` beside Host, the path and split cookies, has one form after this. It does not decide which hosts are
//! allowed.

use super::head_error::HeadError;
use super::request_head::{MAX_HEADERS, is_of_authority, length_of};
use super::target::{TargetError, parse_target};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri};

/// The pseudo-header fields of a request. Envoy counts them among its headers.
const PSEUDO: usize = 4;

/// A field's share of a header list beside its name and value (RFC 9113 §6.5.2).
const FIELD: usize = 32;

/// What the head says besides its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHead {
    /// The one host that the request names.
    pub authority: String,
    /// The value of `expect`. It goes upstream.
    pub expect: Option<HeaderValue>,
}

/// Reads a head and puts it into its canonical form: the canonical path, one Host, one `cookie`, no `expect`. `limit` is
/// the most bytes of its fields.
pub fn read_stream_head(parts: &mut Parts, limit: usize) -> Result<StreamHead, HeadError> {
    if parts.headers.len() + PSEUDO > MAX_HEADERS {
        return Err(HeadError::TooManyHeaders);
    }
    if size_of(&parts.headers) > limit {
        return Err(HeadError::TooLarge);
    }
    if parts.method == Method::CONNECT {
        return Err(HeadError::Connect);
    }
    // The HTTP/2 library counts the body by the first value, and an origin of HTTP/1.1 may read another.
    let mut lengths = parts.headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (lengths.next().is_some() || length_of(length.as_bytes()).is_none())
    {
        return Err(HeadError::ContentLength);
    }
    let kind = parts.headers.get(CONTENT_TYPE);
    if parts.method == "QUERY" && kind.is_none_or(HeaderValue::is_empty) {
        return Err(HeadError::QueryType);
    }
    let raw = parts.uri.path_and_query().map_or("", |path| path.as_str());
    // A path of HTTP/2 is never an absolute URI.
    if !raw.starts_with('/') && raw != "*" {
        return Err(TargetError::Form.into());
    }
    let path = parse_target(parts.method.as_str().as_bytes(), raw.as_bytes())?.path;
    let authority = authority(&parts.uri, &parts.headers)?;
    parts.uri = path.parse().map_err(|_| TargetError::Form)?;
    let expect = parts.headers.remove(EXPECT);
    let host = HeaderValue::from_str(&authority).map_err(|_| HeadError::BadHost)?;
    parts.headers.insert(HOST, host);
    join_cookies(&mut parts.headers);
    Ok(StreamHead { authority, expect })
}

/// As in Envoy, `:authority` outweighs Host. Host counts without it, unless there are several.
fn authority(uri: &Uri, headers: &HeaderMap) -> Result<String, HeadError> {
    let authority = if let Some(authority) = uri.authority() {
        authority.as_str()
    } else {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().ok_or(HeadError::NoHost)?;
        if hosts.next().is_some() {
            return Err(HeadError::BadHost);
        }
        host.to_str().map_err(|_| HeadError::BadHost)?
    };
    if authority.is_empty() {
        return Err(HeadError::NoHost);
    }
    if !authority.bytes().all(is_of_authority) {
        return Err(HeadError::BadHost);
    }
    Ok(authority.to_owned())
}

/// The size of a header list (RFC 9113 §6.5.2).
fn size_of(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD)
        .sum()
}

/// A cookie may come in several fields, which HTTP/1.1 does not have (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::MAX_HEAD;
    use http::Request;

    fn read(
        method: &str,
        uri: &str,
        fields: &[(&str, &str)],
    ) -> Result<(StreamHead, Parts), HeadError> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let head = read_stream_head(&mut parts, MAX_HEAD)?;
        Ok((head, parts))
    }

    #[test]
    fn a_request_names_one_host_and_one_path() {
        for (uri, fields, authority, path) in [
            ("http://a.example/x", &[][..], "a.example", "/x"),
            ("http://a.example:80/", &[], "a.example:80", "/"),
            (
                "http://a.example/x",
                &[("host", "evil.example")],
                "a.example",
                "/x",
            ),
            ("/x?q=1", &[("host", "a.example")], "a.example", "/x?q=1"),
            ("http://a.example/x/../y", &[], "a.example", "/y"),
            ("http://a.example/%70ublic", &[], "a.example", "/public"),
        ] {
            let (head, parts) = read("GET", uri, fields).unwrap();
            assert_eq!(head.authority, authority, "{uri}");
            assert_eq!(parts.uri, *path, "{uri}");
            let hosts: Vec<_> = parts.headers.get_all(HOST).iter().collect();
            assert_eq!(hosts, [authority], "{uri}");
        }
        let (_, parts) = read("OPTIONS", "*", &[("host", "a.example")]).unwrap();
        assert_eq!(parts.uri, "*");
    }

    #[test]
    fn a_request_that_names_no_host_or_several_or_no_path_is_rejected() {
        let two = [("host", "a.example"), ("host", "b.example")];
        for (method, uri, fields, error) in [
            ("GET", "/", &[][..], HeadError::NoHost),
            ("GET", "/", &two, HeadError::BadHost),
            ("GET", "/", &[("host", "a b")], HeadError::BadHost),
            ("GET", "/", &[("host", "")], HeadError::NoHost),
            ("CONNECT", "a.example:80", &[], HeadError::Connect),
            (
                "GET",
                "*",
                &[("host", "a.example")],
                TargetError::Asterisk.into(),
            ),
            ("GET", "http://a.example/%00", &[], TargetError::Nul.into()),
        ] {
            let found = read(method, uri, fields).map(|(head, _)| head);
            assert_eq!(found, Err(error), "{method} {uri}");
        }
    }

    #[test]
    fn a_request_has_one_length() {
        for lengths in [&["5", "5"][..], &["5", "6"], &[""], &["5, 5"], &["+5"]] {
            let fields: Vec<_> = lengths.iter().map(|l| ("content-length", *l)).collect();
            let found = read("POST", "http://a.example/", &fields).map(|(head, _)| head);
            assert_eq!(found, Err(HeadError::ContentLength), "{lengths:?}");
        }
        assert!(read("POST", "http://a.example/", &[("content-length", "5")]).is_ok());
    }

    #[test]
    fn too_many_or_too_long_fields_are_rejected() {
        let many = vec![("a", "b"); 97];
        assert!(read("GET", "http://a.example/", &many[..96]).is_ok());
        let found = read("GET", "http://a.example/", &many).map(|(head, _)| head);
        assert_eq!(found, Err(HeadError::TooManyHeaders));
        let long = "x".repeat(MAX_HEAD);
        let found = read("GET", "http://a.example/", &[("a", &long)]).map(|(head, _)| head);
        assert_eq!(found, Err(HeadError::TooLarge));
    }

    #[test]
    fn cookies_are_joined_and_expect_is_taken_out() {
        let fields = [
            ("cookie", "a=b"),
            ("expect", "100-continue"),
            ("cookie", "c=d"),
        ];
        let (head, parts) = read("GET", "http://a.example/", &fields).unwrap();
        assert_eq!(parts.headers[COOKIE], "a=b; c=d");
        assert_eq!(parts.headers.get_all(COOKIE).iter().count(), 1);
        assert!(!parts.headers.contains_key(EXPECT));
        assert_eq!(head.expect.unwrap(), "100-continue");
    }
}
