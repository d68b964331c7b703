//! Tells from the first bytes what a flow speaks, as Envoy's TLS and HTTP inspectors do.
//!
//! It only looks: what they mean on a port is for `reading`.

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
    /// The connection preface of HTTP/2 (RFC 9113 §3.4).
    Http2,
    /// None of these.
    Unknown,
}

/// The longest method that is taken for one.
const MAX_METHOD: usize = 32;

/// Looks at the bytes so far.
pub fn sniff(bytes: &[u8]) -> Sniffed {
    match bytes {
        [] | [0x16] => return Sniffed::NeedMore,
        [0x16, 0x03, ..] => return Sniffed::Tls,
        _ => {}
    }
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = bytes.iter().take_while(|byte| token(byte)).count();
    let method_ends = bytes.get(method).map(|byte| *byte == b' ');
    if method > MAX_METHOD || method_ends == Some(false) || (method == 0 && method_ends.is_some()) {
        return Sniffed::Unknown;
    }
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return Sniffed::NeedMore;
    };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    match line.rsplit(|byte| *byte == b' ').next() {
        _ if line == b"PRI * HTTP/2.0" => Sniffed::Http2,
        Some(b"HTTP/1.1") => Sniffed::Http11,
        Some(b"HTTP/1.0") => Sniffed::Http10,
        _ => Sniffed::Unknown,
    }
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
            (b"GET /\r\n", Sniffed::Unknown),
            (b"GET / HTTP/3.0\r\n", Sniffed::Unknown),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniffed::Http2),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Sniffed::Unknown),
            (b"\0\0\0", Sniffed::Unknown),
            (b" GET / HTTP/1.1\r\n", Sniffed::Unknown),
            (
                b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                Sniffed::Unknown,
            ),
        ] {
            assert_eq!(sniff(bytes), sniffed, "{bytes:?}");
        }
    }
}
