//! The commands of a format, and their values for one entry (Envoy
//! `source/common/formatter/stream_info_formatter.cc`, `http_specific_formatter.cc`).

use super::entry::Entry;
use super::{escape, start_time};
use crate::http::format::Named;
use http::HeaderMap;
use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::net::SocketAddr;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `%REQ(X?Y):Z%`.
    Request(Named),
    /// `%RESP(X?Y):Z%`.
    Response(Named),
    Plain(Plain),
}

/// A command without arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plain {
    StartTime,
    Duration,
    Protocol,
    ResponseCode,
    ResponseFlags,
    ResponseCodeDetails,
    TerminationDetails,
    TransportFailure,
    BytesReceived,
    BytesSent,
    Attempts,
    Cluster,
    Upstream(Part),
    UpstreamLocal(Part),
    Dialled(Part),
    Peer(Part),
    ServerName,
    RouteName,
}

/// A part of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Ip,
    Port,
}

const PLAIN: [(&str, Plain); 31] = [
    ("START_TIME", Plain::StartTime),
    ("DURATION", Plain::Duration),
    ("PROTOCOL", Plain::Protocol),
    ("RESPONSE_CODE", Plain::ResponseCode),
    ("RESPONSE_FLAGS", Plain::ResponseFlags),
    ("RESPONSE_CODE_DETAILS", Plain::ResponseCodeDetails),
    ("CONNECTION_TERMINATION_DETAILS", Plain::TerminationDetails),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Plain::TransportFailure),
    ("BYTES_RECEIVED", Plain::BytesReceived),
    ("BYTES_SENT", Plain::BytesSent),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Plain::Attempts),
    ("UPSTREAM_CLUSTER", Plain::Cluster),
    ("UPSTREAM_CLUSTER_RAW", Plain::Cluster),
    ("UPSTREAM_HOST", Plain::Upstream(Part::Whole)),
    ("UPSTREAM_REMOTE_ADDRESS", Plain::Upstream(Part::Whole)),
    (
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        Plain::Upstream(Part::Ip),
    ),
    ("UPSTREAM_REMOTE_PORT", Plain::Upstream(Part::Port)),
    ("UPSTREAM_LOCAL_ADDRESS", Plain::UpstreamLocal(Part::Whole)),
    (
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        Plain::UpstreamLocal(Part::Ip),
    ),
    ("UPSTREAM_LOCAL_PORT", Plain::UpstreamLocal(Part::Port)),
    ("DOWNSTREAM_LOCAL_ADDRESS", Plain::Dialled(Part::Whole)),
    (
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        Plain::Dialled(Part::Ip),
    ),
    ("DOWNSTREAM_LOCAL_PORT", Plain::Dialled(Part::Port)),
    ("DOWNSTREAM_REMOTE_ADDRESS", Plain::Peer(Part::Whole)),
    (
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        Plain::Peer(Part::Ip),
    ),
    ("DOWNSTREAM_REMOTE_PORT", Plain::Peer(Part::Port)),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Plain::Peer(Part::Whole)),
    (
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        Plain::Peer(Part::Ip),
    ),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", Plain::Peer(Part::Port)),
    ("REQUESTED_SERVER_NAME", Plain::ServerName),
    ("ROUTE_NAME", Plain::RouteName),
];

impl Command {
    /// The command of a name and its arguments.
    pub(super) fn known(name: &str, arguments: Option<Named>) -> Option<Self> {
        match (name, arguments) {
            ("REQ", Some(named)) => Some(Self::Request(named)),
            ("RESP", Some(named)) => Some(Self::Response(named)),
            (name, None) => {
                let known = PLAIN.iter().find(|(known, _)| *known == name)?;
                Some(Self::Plain(known.1))
            }
            (_, Some(_)) => None,
        }
    }

    /// Whether its value is a number in JSON.
    pub(super) fn is_number(&self) -> bool {
        use Plain::{
            Attempts, BytesReceived, BytesSent, Dialled, Duration, Peer, ResponseCode, Upstream,
            UpstreamLocal,
        };
        matches!(
            self,
            Self::Plain(
                Duration
                    | ResponseCode
                    | BytesReceived
                    | BytesSent
                    | Attempts
                    | Upstream(Part::Port)
                    | UpstreamLocal(Part::Port)
                    | Dialled(Part::Port)
                    | Peer(Part::Port)
            )
        )
    }

    /// Appends the value, escaped. False, and nothing appended, if the entry does not have it.
    pub(super) fn push(&self, entry: &Entry<'_>, to: &mut String) -> bool {
        match self {
            Self::Request(named) => {
                let request = |name: &str| entry.of_request(name);
                push_named(named, request, to)
            }
            Self::Response(named) => {
                let response = |name: &str| of_headers(entry.response_headers, name);
                push_named(named, response, to)
            }
            Self::Plain(plain) => plain.push(entry, to),
        }
    }
}

impl Plain {
    fn push(self, entry: &Entry<'_>, to: &mut String) -> bool {
        match self {
            Self::StartTime => start_time::write(entry.started, to).is_ok(),
            Self::Duration => shown(to, Some(entry.duration.as_millis())),
            Self::Protocol => given(to, entry.request.map(|request| request.protocol)),
            Self::ResponseCode => shown(to, Some(entry.response_code)),
            Self::ResponseFlags => shown(to, Some(entry.flags)),
            Self::ResponseCodeDetails => given(to, entry.details),
            // Envoy sets it where a filter of a sidecar that receives ends a connection.
            Self::TerminationDetails => false,
            Self::TransportFailure => given(to, entry.transport_failure),
            Self::BytesReceived => shown(to, Some(entry.bytes_received)),
            Self::BytesSent => shown(to, Some(entry.bytes_sent)),
            Self::Attempts => shown(to, Some(entry.attempts)),
            Self::Cluster => shown(to, entry.cluster),
            Self::Upstream(part) => part.push(entry.upstream, to),
            Self::UpstreamLocal(part) => part.push(entry.upstream_local, to),
            Self::Dialled(part) => part.push(Some(entry.dialled), to),
            Self::Peer(part) => part.push(Some(entry.peer), to),
            Self::ServerName => given(to, entry.server_name),
            Self::RouteName => given(to, entry.route_name),
        }
    }
}

impl Part {
    fn push(self, address: Option<SocketAddr>, to: &mut String) -> bool {
        match self {
            Self::Whole => shown(to, address),
            Self::Ip => shown(to, address.map(|address| address.ip())),
            Self::Port => shown(to, address.map(|address| address.port())),
        }
    }
}

/// Appends what has no character to escape.
fn shown(to: &mut String, value: Option<impl Display>) -> bool {
    value.is_some_and(|value| write!(to, "{value}").is_ok())
}

/// Appends what others may have chosen.
fn given(to: &mut String, value: Option<&str>) -> bool {
    let value = value.filter(|value| !value.is_empty());
    value.inspect(|value| escape::push(to, value)).is_some()
}

fn push_named<'a>(
    named: &Named,
    find: impl Fn(&str) -> Option<Cow<'a, str>>,
    to: &mut String,
) -> bool {
    let other = || find(named.other.as_deref()?);
    let Some(value) = find(&named.name).or_else(other) else {
        return false;
    };
    // A header without a value is not the same as none.
    escape::push(to, &value[..value.floor_char_boundary(named.most)]);
    true
}

/// Bytes that are no UTF-8 become replacement characters.
fn of_headers<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()))
}

impl<'a> Entry<'a> {
    fn of_request(&self, name: &str) -> Option<Cow<'a, str>> {
        let request = self.request?;
        let text = match name {
            ":method" => request.method,
            ":authority" | "host" => request.authority,
            ":path" => request.target,
            ":scheme" => "http",
            name => return of_headers(self.request_headers, name),
        };
        // An empty one was not read.
        Some(text.into()).filter(|_| !text.is_empty())
    }
}
