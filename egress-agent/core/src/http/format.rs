//! Envoy's substitution formats: a text with `%COMMANDS%` whose values are those of one request (Envoy
//! `source/common/formatter/stream_info_formatter.cc`, `http_specific_formatter.cc`).
//!
//! Owns the syntax and the values. Does not know where a text is used.

use super::response_flags::ResponseFlags;
use http::HeaderMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// A text with commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format(Vec<Piece<Command>>);

/// A part of a text with commands of some kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece<C> {
    Text(String),
    Command(C),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Command {
    /// `%REQ(X?Y):Z%`.
    Request(Named),
    /// `%RESP(X?Y):Z%`.
    Response(Named),
    Protocol,
    ResponseCode,
    ResponseFlags,
    UpstreamCluster,
    PeerAddress,
    PeerIp,
    PeerPort,
    DialledAddress,
    DialledIp,
    DialledPort,
}

/// A header by its name, else by another, and the most bytes of its value: `X?Y):Z`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// In lower case.
    pub(crate) name: String,
    /// In lower case.
    pub(crate) other: Option<String>,
    pub(crate) most: usize,
}

/// The commands without arguments.
const PLAIN: [(&str, Command); 10] = [
    ("PROTOCOL", Command::Protocol),
    ("RESPONSE_CODE", Command::ResponseCode),
    ("RESPONSE_FLAGS", Command::ResponseFlags),
    ("UPSTREAM_CLUSTER", Command::UpstreamCluster),
    ("DOWNSTREAM_REMOTE_ADDRESS", Command::PeerAddress),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Command::PeerIp),
    ("DOWNSTREAM_REMOTE_PORT", Command::PeerPort),
    ("DOWNSTREAM_LOCAL_ADDRESS", Command::DialledAddress),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Command::DialledIp),
    ("DOWNSTREAM_LOCAL_PORT", Command::DialledPort),
];

/// A command that is not known here, or not well formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("%{0}% is not carried out")]
pub struct UnknownCommand(String);

/// What the commands of one request stand for.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// The method.
    pub method: &'a str,
    /// The authority.
    pub authority: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'a str,
    /// The request's headers.
    pub request: &'a HeaderMap,
    /// The response's headers and status, if there is one.
    pub response: Option<(&'a HeaderMap, u16)>,
    /// The response flags so far.
    pub flags: ResponseFlags,
    /// The client.
    pub peer: SocketAddr,
    /// The address that the client dialled.
    pub dialled: SocketAddr,
    /// The name of the cluster, if the route has one.
    pub cluster: &'a str,
}

impl Format {
    /// Parses a text. `%%` is a percent sign.
    ///
    /// # Errors
    ///
    /// The first command that is not known.
    pub fn new(text: &str) -> Result<Self, UnknownCommand> {
        pieces(text, known).map(Self)
    }

    /// The text, if it has no commands.
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text for one request. `absent` stands for a value that the request does not have.
    pub fn text(&self, values: &Values<'_>, absent: &str) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Command(command) => {
                    let before = text.len();
                    // A string takes every write.
                    if command.write(values, &mut text).is_err() || text.len() == before {
                        text.push_str(absent);
                    }
                }
            }
        }
        text
    }
}

/// Parses a text. `known` makes a command of its name and arguments.
pub(crate) fn pieces<C>(
    text: &str,
    known: impl Fn(&str, Option<Named>) -> Option<C>,
) -> Result<Vec<Piece<C>>, UnknownCommand> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let unknown = || UnknownCommand(after.split('%').next().unwrap_or(after).to_owned());
        let (name, arguments, after) = command(after).ok_or_else(unknown)?;
        let command = known(name, arguments).ok_or_else(unknown)?;
        if !literal.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Command(command));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    Ok(pieces)
}

/// Parses a command up to its closing percent sign. Returns its name, its arguments and the text behind it.
fn command(text: &str) -> Option<(&str, Option<Named>, &str)> {
    let end = text.find(['(', '%'])?;
    let name = &text[..end];
    if text[end..].starts_with('%') {
        return Some((name, None, &text[end + 1..]));
    }
    let (arguments, after) = text[end + 1..].split_once(')')?;
    let (most, after) = after.split_once('%')?;
    let most = match most.strip_prefix(':') {
        Some(most) => most.parse().ok()?,
        None if most.is_empty() => usize::MAX,
        None => return None,
    };
    let (first, other) = match arguments.split_once('?') {
        Some((first, other)) => (first, Some(other.to_ascii_lowercase())),
        None => (arguments, None),
    };
    let named = Named {
        name: first.to_ascii_lowercase(),
        other,
        most,
    };
    Some((name, Some(named), after))
}

/// The command of a name and its arguments.
fn known(name: &str, arguments: Option<Named>) -> Option<Command> {
    match (name, arguments) {
        ("REQ", Some(named)) => Some(Command::Request(named)),
        ("RESP", Some(named)) => Some(Command::Response(named)),
        (name, None) => {
            let known = PLAIN.iter().find(|(known, _)| *known == name)?;
            Some(known.1.clone())
        }
        (_, Some(_)) => None,
    }
}

impl Named {
    fn write<'a>(&self, find: impl Fn(&str) -> Option<&'a str>, text: &mut String) {
        let other = || find(self.other.as_deref()?);
        let Some(value) = find(&self.name).or_else(other) else {
            return;
        };
        let most = value.floor_char_boundary(self.most);
        text.push_str(&value[..most]);
    }
}

fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl Command {
    fn write(&self, values: &Values<'_>, text: &mut String) -> std::fmt::Result {
        match self {
            Self::Request(named) => named.write(|name| values.of_request(name), text),
            Self::Response(named) => {
                let found = |name: &str| value(values.response?.0, name);
                named.write(found, text);
            }
            Self::Protocol => text.push_str(values.protocol),
            Self::ResponseCode => match values.response {
                Some((_, status)) => write!(text, "{status}")?,
                None => text.push('0'),
            },
            Self::ResponseFlags => write!(text, "{}", values.flags)?,
            Self::UpstreamCluster => text.push_str(values.cluster),
            Self::PeerAddress => write!(text, "{}", values.peer)?,
            Self::PeerIp => write!(text, "{}", values.peer.ip())?,
            Self::PeerPort => write!(text, "{}", values.peer.port())?,
            Self::DialledAddress => write!(text, "{}", values.dialled)?,
            Self::DialledIp => write!(text, "{}", values.dialled.ip())?,
            Self::DialledPort => write!(text, "{}", values.dialled.port())?,
        }
        Ok(())
    }
}

impl<'a> Values<'a> {
    fn of_request(&self, name: &str) -> Option<&'a str> {
        match name {
            ":method" => Some(self.method),
            ":authority" | "host" => Some(self.authority),
            ":path" => Some(self.target),
            ":scheme" => Some(self.scheme),
            name => value(self.request, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::test_headers::headers;

    fn text(format: &str) -> String {
        let request = headers(&[("x-a", "first"), ("x-b", "second")]);
        let response = headers(&[("etag", "1")]);
        let values = Values {
            method: "GET",
            authority: "httpbin.org",
            target: "/get?q",
            scheme: "http",
            protocol: "HTTP/1.1",
            request: &request,
            response: Some((&response, 201)),
            flags: ResponseFlags::default(),
            peer: "192.0.2.7:1234".parse().unwrap(),
            dialled: "[2001:db8::1]:80".parse().unwrap(),
            cluster: "outbound|80||httpbin.org",
        };
        let format = Format::new(format).unwrap();
        format.text(&values, "")
    }

    #[test]
    fn commands_stand_for_the_values_of_the_request() {
        for (format, expected) in [
            ("plain", "plain"),
            ("100%%", "100%"),
            ("%REQ(X-A)%", "first"),
            ("<%REQ(x-missing?X-B)%>", "<second>"),
            ("%REQ(x-a):2%-%REQ(:path)%", "fi-/get?q"),
            ("%REQ(x-missing)%", ""),
            ("%RESP(etag)%%RESPONSE_CODE%", "1201"),
            ("%PROTOCOL% %REQ(:METHOD)%", "HTTP/1.1 GET"),
            ("%RESPONSE_FLAGS%", "-"),
            ("%DOWNSTREAM_REMOTE_ADDRESS%", "192.0.2.7:1234"),
            ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "2001:db8::1"),
        ] {
            assert_eq!(text(format), expected, "{format}");
        }
    }

    #[test]
    fn a_command_that_is_not_known_is_named() {
        for (format, named) in [
            ("a %HOSTNAME% b", "HOSTNAME"),
            ("%UPSTREAM_HOST%", "UPSTREAM_HOST"),
            (
                "%DYNAMIC_METADATA([\"a\", \"b\"])%",
                "DYNAMIC_METADATA([\"a\", \"b\"])",
            ),
            ("100%", ""),
            ("%REQ(a)x%", "REQ(a)x"),
        ] {
            assert_eq!(
                Format::new(format),
                Err(UnknownCommand(named.into())),
                "{format}"
            );
        }
    }
}
