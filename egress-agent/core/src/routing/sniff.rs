//! Detects a flow's protocol from its first bytes, as Envoy's TLS and HTTP inspectors do, but
//! stricter: bytes that a lenient HTTP server could take for a request count as HTTP.
//!
//! `reading` decides what the protocol means on a port.

use crate::http::method::is_known_method;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// A valid beginning of more than one.
    NeedMore,
    /// A TLS handshake record.
    Tls,
    /// An HTTP/1.1 request line.
    Http11,
    /// An HTTP/1.0 request line.
    Http10,
    /// A line that some HTTP server could take for a request line: other white space, another
    /// spelling of the version, or none.
    LikeHttp,
    /// The connection preface of HTTP/2 (RFC 9113 §3.4).
    Http2,
    /// None of these.
    Unknown,
}

/// Looks at the bytes so far.
pub fn sniff(bytes: &[u8]) -> Sniffed {
    match bytes {
        [] | [0x16] => return Sniffed::NeedMore,
        [0x16, 0x03, ..] => return Sniffed::Tls,
        _ => {}
    }
    // HTTP servers skip empty lines before a request line (RFC 9112 §2.2), and some other space.
    let Some(start) = bytes.iter().position(|byte| !is_space(*byte)) else {
        return Sniffed::NeedMore;
    };
    let only_lines = bytes[..start].iter().all(|b| matches!(b, b'\r' | b'\n'));
    let text = &bytes[start..];
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let method = text.iter().take_while(|byte| token(**byte)).count();
    if method == 0 || text.get(method).is_some_and(|byte| !is_space(*byte)) {
        return Sniffed::Unknown;
    }
    let end = text.iter().position(|byte| *byte == b'\n');
    let line = &text[..end.unwrap_or(text.len())];
    if line.iter().any(|byte| *byte < b' ' && !is_space(*byte)) {
        return Sniffed::Unknown;
    }
    if end.is_none() {
        return Sniffed::NeedMore;
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line == b"PRI * HTTP/2.0" && start == 0 {
        return Sniffed::Http2;
    }
    if only_lines && let [_, target, version] = *line.split(|b| *b == b' ').collect::<Vec<_>>() {
        let plain = !target.is_empty() && !target.iter().any(|byte| is_space(*byte));
        match version {
            b"HTTP/1.1" if plain => return Sniffed::Http11,
            b"HTTP/1.0" if plain => return Sniffed::Http10,
            _ => {}
        }
    }
    let is_like_http = {
        let mut words = line.split(|byte| is_space(*byte));
        let first = words.next().and_then(|word| str::from_utf8(word).ok());
        let rest: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
        let begins = |word: &&[u8], with: &[u8]| {
            let start = word.get(..with.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(with))
        };
        let is_target = |word: &&[u8]| {
            [&b"/"[..], b"http://", b"https://"]
                .iter()
                .any(|with| begins(word, with))
        };
        let versioned = rest.last().is_some_and(|word| begins(word, b"http/"));
        versioned || (first.is_some_and(is_known_method) && rest.first().is_some_and(is_target))
    };
    if is_like_http {
        Sniffed::LikeHttp
    } else {
        Sniffed::Unknown
    }
}

/// The bytes that servers take for space around and between the words of a request line.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        for (bytes, sniffed) in [
            (&b""[..], Sniffed::NeedMore),
            (b"\x16", Sniffed::NeedMore),
            (b"\x16\x03", Sniffed::Tls),
            (b"\x16\x02", Sniffed::Unknown),
            (b"G", Sniffed::NeedMore),
            (b"GET / HTTP/1.1\r", Sniffed::NeedMore),
            (b"GET / HTTP/1.1\r\n", Sniffed::Http11),
            (b"PROPFIND /a HTTP/1.1\r\nHost", Sniffed::Http11),
            (b"GET / HTTP/1.0\r\n", Sniffed::Http10),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", Sniffed::Http11),
            (b"\r\n", Sniffed::NeedMore),
            (b"GET /\r\n", Sniffed::LikeHttp),
            (b"GET http://a/\r\n", Sniffed::LikeHttp),
            (b"GET / HTTP/3.0\r\n", Sniffed::LikeHttp),
            (b"GET / http/1.1\r\n", Sniffed::LikeHttp),
            (b"GET\t/\tHTTP/1.1\r\n", Sniffed::LikeHttp),
            (b"GET  / HTTP/1.1\r\n", Sniffed::LikeHttp),
            (b"GET / HTTP/1.1 \r\n", Sniffed::LikeHttp),
            (b" GET / HTTP/1.1\r\n", Sniffed::LikeHttp),
            (b"\x0bGET / HTTP/1.1\r\n", Sniffed::LikeHttp),
            (b"\r\nPRI * HTTP/2.0\r\n", Sniffed::LikeHttp),
            (b"get key\r\n", Sniffed::Unknown),
            (b"GET key\r\n", Sniffed::Unknown),
            (b"*1\r\n$4\r\nPING\r\n", Sniffed::Unknown),
            (b"OPTIONS rtsp://a/ RTSP/1.0\r\n", Sniffed::Unknown),
            (b"EHLO a.example\r\n", Sniffed::Unknown),
            (b"AMQP\0\0\x09\x01", Sniffed::Unknown),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniffed::Http2),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Sniffed::Unknown),
            (b"\0\0\0", Sniffed::Unknown),
            (
                b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                Sniffed::NeedMore,
            ),
            (
                b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n",
                Sniffed::Http11,
            ),
        ] {
            assert_eq!(sniff(bytes), sniffed, "{bytes:?}");
        }
    }
}
