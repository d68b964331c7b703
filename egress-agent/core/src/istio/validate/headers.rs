//! HTTP header names and values, and the operations on them.

use super::check::{Check, Rule};
use crate::istio::virtual_service::{HeaderOperations, Headers};

/// A token of RFC 9110 §5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn token(name: &str) -> Rule {
    if name.is_empty() {
        return Err("header name cannot be empty".to_owned());
    }
    if is_token(name) {
        Ok(())
    } else {
        Err(format!("header name {name} is not a valid header name"))
    }
}

/// A header in a CORS list.
pub fn cors_name(name: &str) -> Rule {
    token(name)
}

/// Whether a header name of a match stands for a claim of a token: `@request.auth.claims.a` or
/// `@request.auth.claims[a][b]`, which only gateways can match.
pub fn is_claim(name: &str) -> bool {
    const PREFIX: &str = "@request.auth.claims";
    let Some((prefix, rest)) = name.split_at_checked(PREFIX.len()) else {
        return false;
    };
    prefix.eq_ignore_ascii_case(PREFIX)
        && ((rest.starts_with('.') && rest.len() > 1)
            || (rest.starts_with('[') && rest.ends_with(']') && rest.len() > 2))
}

/// A header name of a match: a token, a pseudo header or a claim.
pub fn match_name(name: &str) -> Rule {
    if is_claim(name) || [":method", ":scheme", ":authority", ":path", ":status"].contains(&name) {
        return Ok(());
    }
    token(name)
}

/// Whether a header is the authority under one of its names.
pub fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

fn request_set_name(name: &str) -> Rule {
    if name.is_empty() {
        return Err("header name cannot be empty".to_owned());
    }
    if name.starts_with(':') && !is_authority(name) {
        return Err(format!(
            "invalid header {name:?}: header cannot have \":\" prefix"
        ));
    }
    Ok(())
}

fn other_name(name: &str) -> Rule {
    if name.is_empty() {
        return Err("header name cannot be empty".to_owned());
    }
    if name.eq_ignore_ascii_case("host") {
        return Err(format!("invalid header {name:?}: cannot set Host header"));
    }
    if name.starts_with(':') {
        return Err(format!(
            "invalid header {name:?}: header cannot have \":\" prefix"
        ));
    }
    Ok(())
}

/// Changes of headers on a route or destination.
pub fn headers(check: &mut Check<'_>, headers: Option<&Headers>) {
    check.some("headers", headers, |check, headers| {
        check.some("request", headers.request.as_ref(), |check, request| {
            operations(check, request, request_set_name);
        });
        check.some("response", headers.response.as_ref(), |check, response| {
            operations(check, response, other_name);
        });
    });
}

fn operations(check: &mut Check<'_>, operations: &HeaderOperations, set_name: fn(&str) -> Rule) {
    for (key, map) in [("add", &operations.add), ("set", &operations.set)] {
        check.each_entry(key, map, |check, name, text| {
            check.require(set_name(name));
            check.require(value(text));
        });
    }
    check.each("remove", &operations.remove, |check, name| {
        check.require(other_name(name));
    });
}

/// A header value, which may hold Envoy's `%VARIABLES%`.
fn value(text: &str) -> Rule {
    if text.bytes().any(|b| matches!(b, 0..=8 | 10..=31 | 127)) {
        return Err(format!("header value configuration {text} is invalid"));
    }
    variables(text).map_err(|reason| {
        format!("header value configuration: invalid header configuration. {reason}")
    })
}

/// Where in `%NAME(["argument", ...])%` a value is.
enum State {
    Literal,
    Name,
    Array,
    Text,
    TextStart,
    NextOrEnd,
    ArgumentsEnd,
    VariableEnd,
}

/// Whether every `%` starts a variable that ends, or is doubled. The names are Envoy's business
/// (Envoy `source/common/router/header_parser.cc`, Istio `header_value_validator.go`).
fn variables(text: &str) -> Rule {
    let mut state = State::Literal;
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        let is_space = byte == b' ';
        state = match (state, byte) {
            (State::Literal, b'%') => match bytes.peek() {
                None => return Err("Un-escaped %".to_owned()),
                Some(b'%') => {
                    bytes.next();
                    State::Literal
                }
                Some(_) => State::Name,
            },
            (State::Literal, _) | (State::Name | State::VariableEnd, b'%') => State::Literal,
            (State::Name, b'(') => State::Array,
            (State::Name, _) => State::Name,
            (State::Array, b'[') | (State::NextOrEnd, b',') => State::TextStart,
            (State::Array, _) if is_space => State::Array,
            (State::Array, _) | (State::TextStart, b'"') => State::Text,
            (State::TextStart, _) if is_space => State::TextStart,
            (State::TextStart, _) => return Err("Expecting '\"'".to_owned()),
            (State::NextOrEnd, b']') => State::ArgumentsEnd,
            (State::NextOrEnd, _) if is_space => State::NextOrEnd,
            (State::NextOrEnd, _) => return Err("Expecting ',', ']', or whitespace".to_owned()),
            (State::Text, b'\\') => {
                if bytes.next().is_none() {
                    return Err("Un-terminated backslash in JSON string".to_owned());
                }
                State::Text
            }
            (State::Text | State::ArgumentsEnd, b')') => State::VariableEnd,
            (State::Text, b'"') => State::NextOrEnd,
            (State::Text, _) => State::Text,
            (State::ArgumentsEnd, _) if is_space => State::ArgumentsEnd,
            (State::ArgumentsEnd, _) => {
                return Err("Expecting ')' or whitespace after '{}', but found '{}'".to_owned());
            }
            (State::VariableEnd, _) if is_space => State::VariableEnd,
            (State::VariableEnd, _) => return Err("Expecting '%' or whitespace after".to_owned()),
        };
    }
    match state {
        State::Literal => Ok(()),
        _ => Err(format!("Un-terminated variable expression '{text}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_must_end_and_lone_percent_signs_be_doubled() {
        for (text, reason) in [
            ("plain", ""),
            ("100%%", ""),
            ("a %HOSTNAME% b", ""),
            ("%REQ(:path)%", ""),
            ("%DYNAMIC_METADATA([\"a\", \"b\"])%", ""),
            ("%PER_REQUEST_STATE(a)% x", ""),
            ("100%", "Un-escaped %"),
            ("abc%123", "Un-terminated variable expression 'abc%123'"),
            ("%START_TIME%%", "Un-escaped %"),
            ("%A([b])%", "Expecting '\"'"),
            ("%A([\"b\" x])%", "Expecting ',', ']', or whitespace"),
            ("%A(b)x%", "Expecting '%' or whitespace after"),
            ("%A([\"b\\", "Un-terminated backslash in JSON string"),
        ] {
            assert_eq!(variables(text).err().unwrap_or_default(), reason, "{text}");
        }
    }

    #[test]
    fn header_names_of_matches_are_tokens_pseudo_headers_or_claims() {
        for (name, fits) in [
            ("x-a", true),
            ("a!#$%&'*+-.^_`|~z", true),
            (":method", true),
            (":other", false),
            ("@request.auth.claims.sub", true),
            ("@request.auth.claims[a][b]", true),
            ("@request.auth.claims", false),
            ("a b", false),
            ("", false),
        ] {
            assert_eq!(match_name(name).is_ok(), fits, "{name}");
        }
    }
}
