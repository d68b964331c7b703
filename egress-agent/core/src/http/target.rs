//! The one canonical form of a request target, as Envoy's `normalize_path` makes it with Istio's
//! default setting (`pathNormalization: BASE`).
//!
//! The path that a route matches is the path that goes upstream: only this code reads a path. It does not merge slashes
//! and does not decode `%2F` or `%5C`; Istio does so only with stronger settings.

use thiserror::Error;

/// In a target, Envoy calls it by another name than other bytes that no target has.
pub(super) const DEL: u8 = 0x7f;

/// Why a request target cannot be matched against routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TargetError {
    /// A space, a control character, or a byte outside ASCII.
    #[error("the request target has the byte 0x{0:02x}")]
    BadByte(u8),
    /// `%00` in the path.
    #[error("the path has an encoded NUL")]
    Nul,
    /// Neither a path, nor `*` of OPTIONS, nor an absolute URI.
    #[error("the request target is neither a path nor an absolute URI")]
    Form,
    /// An absolute URI without a host or with an empty port, or the target of CONNECT without a port.
    #[error("the request target is not a URL with a host")]
    Url,
    /// `*` of another method.
    #[error("the request target * belongs to OPTIONS")]
    Asterisk,
    /// An absolute URI of another scheme.
    #[error("the request target is of another scheme than http and https")]
    Scheme,
}

/// A request target in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The authority of an absolute target, as sent. It outweighs Host (RFC 9112 §3.2.2).
    pub authority: Option<String>,
    /// Path and query, or `*`.
    pub path: String,
}

/// Reads the target of a method other than CONNECT.
///
/// The fragment is cut off, dot segments are removed (those with parameters too: `..;x` is `..` to some servers),
/// backslashes become slashes, and escapes of unreserved characters are decoded (RFC 3986 §2.3). The query is kept as
/// it is, except `"`, `<` and `>`, which are not allowed in a URI.
pub fn parse_target(method: &[u8], raw: &[u8]) -> Result<Target, TargetError> {
    if let Some(bad) = raw.iter().find(|byte| !(0x21..=0x7e).contains(*byte)) {
        return Err(TargetError::BadByte(*bad));
    }
    let raw = str::from_utf8(raw).map_err(|_| TargetError::Form)?;
    let whole = raw.split('#').next().unwrap_or_default();
    if whole == "*" && method != b"OPTIONS" {
        return Err(TargetError::Asterisk);
    }
    if whole == "*" {
        let path = whole.to_owned();
        return Ok(Target {
            authority: None,
            path,
        });
    }
    if whole.starts_with('/') {
        let path = canonical_path(whole)?;
        return Ok(Target {
            authority: None,
            path,
        });
    }
    let (scheme, rest) = whole.split_once("://").ok_or(TargetError::Form)?;
    if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return Err(TargetError::Scheme);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // RFC 3986 §3.2.3 allows an empty port. Envoy rejects it here, but not in a Host.
    if authority.is_empty() || authority.contains('\\') || authority.ends_with(':') {
        return Err(TargetError::Url);
    }
    let path = match path.strip_prefix('/') {
        Some(_) => canonical_path(path)?,
        None => canonical_path(&format!("/{path}"))?,
    };
    Ok(Target {
        authority: Some(authority.to_owned()),
        path,
    })
}

/// A path, which begins with a slash, and its query.
fn canonical_path(text: &str) -> Result<String, TargetError> {
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    let mut canonical = if is_canonical(path) {
        let mut whole = String::with_capacity(text.len());
        whole.push_str(path);
        whole
    } else {
        without_dot_segments(&decoded(path)?)
    };
    if let Some(query) = query.filter(|query| !query.contains(['"', '<', '>'])) {
        canonical.push('?');
        canonical.push_str(query);
    } else if let Some(query) = query {
        canonical.push('?');
        for char in query.chars() {
            match char {
                // Envoy passes these three; for the HTTP library they are an error.
                '"' | '<' | '>' => push_escaped(&mut canonical, char as u8),
                char => canonical.push(char),
            }
        }
    }
    Ok(canonical)
}

/// Whether a path has nothing to decode or to escape, and no segment that begins with a dot. Most paths have not.
fn is_canonical(path: &str) -> bool {
    let is_plain = |byte: u8| {
        !matches!(
            byte,
            b'%' | b'\\' | b'<' | b'>' | b'"' | b'`' | b'{' | b'}' | b'|' | b'^'
        )
    };
    path.bytes().all(is_plain) && !path.contains("/.")
}

/// Decodes escapes of unreserved characters, turns backslashes into slashes, and escapes characters that are not
/// allowed in a URI.
fn decoded(path: &str) -> Result<String, TargetError> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    // Positions in `out` of percent signs that begin no escape.
    let mut bare = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match *byte {
            b'%' => {
                let Some(escaped) = escape(&bytes[at..]) else {
                    bare.push(out.len());
                    out.push('%');
                    continue;
                };
                if escaped == 0 {
                    return Err(TargetError::Nul);
                }
                if is_unreserved(escaped) {
                    out.push(char::from(escaped));
                } else {
                    out.push('%');
                    out.push(char::from(bytes[at]));
                    out.push(char::from(bytes[at + 1]));
                }
                at += 2;
            }
            b'\\' => out.push('/'),
            b'<' | b'>' | b'"' | b'`' | b'{' | b'}' | b'|' | b'^' => {
                push_escaped(&mut out, *byte);
            }
            other => out.push(char::from(other)),
        }
    }
    // Decoded characters must not form a new escape: `%%32e` is `%252e`, not `%2e`.
    for at in bare.into_iter().rev() {
        if escape(&out.as_bytes()[at + 1..]).is_some() {
            out.insert_str(at + 1, "25");
        }
    }
    Ok(out)
}

fn push_escaped(to: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
    to.extend(['%', digit(byte >> 4), digit(byte)]);
}

/// The byte of two hexadecimal digits.
fn escape(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 §5.2.4. A path that leads above the root ends at the root.
fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_with_slash = false;
    // The path begins with a slash, and nothing before it is a segment.
    for segment in path.split('/').skip(1) {
        let name = segment.split(';').next().unwrap_or_default();
        ends_with_slash = matches!(name, "." | "..");
        match name {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if ends_with_slash || out.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
