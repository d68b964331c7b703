//! The fields of one hop (RFC 9110 §7.6.1), and the upgrade that `connection` asks for.
//!
//! Header maps in, header maps out.

use http::HeaderMap;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};

/// Fields of one hop, besides those that `connection` names (RFC 9110 §7.6.1).
const HOP_BY_HOP: [&str; 4] = [
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
];

/// What a request's `connection: upgrade` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeAsked {
    /// Nothing, or h2c, which Envoy removes and ignores.
    No,
    /// websocket, the only upgrade that Istio's sidecars pass through.
    Websocket,
    /// Another protocol.
    Other,
}

/// Reads `connection` and `upgrade`.
pub fn upgrade_asked(headers: &HeaderMap) -> UpgradeAsked {
    asked(tokens(headers, &CONNECTION), || tokens(headers, &UPGRADE))
}

/// The same of the elements of both fields.
pub(super) fn asked<'a, U: Iterator<Item = &'a [u8]>>(
    mut connection: impl Iterator<Item = &'a [u8]>,
    upgrade: impl Fn() -> U,
) -> UpgradeAsked {
    if !connection.any(|token| token.eq_ignore_ascii_case(b"upgrade")) {
        return UpgradeAsked::No;
    }
    let all = |protocol: &[u8]| upgrade().all(|token| token.eq_ignore_ascii_case(protocol));
    match upgrade().next() {
        None => UpgradeAsked::No,
        Some(_) if all(b"websocket") => UpgradeAsked::Websocket,
        Some(_) if all(b"h2c") => UpgradeAsked::No,
        Some(_) => UpgradeAsked::Other,
    }
}

/// Fields that `connection` cannot name: they frame or address a message.
const KEPT: [HeaderName; 7] = [
    CONNECTION,
    CONTENT_LENGTH,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Whether `connection` can make a field one of this hop by naming it.
fn may_be_named(token: &[u8]) -> bool {
    let is = |name: &str| token.eq_ignore_ascii_case(name.as_bytes());
    !is("keep-alive") && !KEPT.iter().any(|kept| is(kept.as_str()))
}

/// The fields that a value of `connection` names.
pub(super) fn named_by(connection: &[u8]) -> Vec<&[u8]> {
    elements(connection)
        .filter(|token| may_be_named(token))
        .collect()
}

/// Removes the fields of one hop, except those of an upgrade that continues.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap, keep_upgrade: bool) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter(|token| may_be_named(token))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .collect();
    for name in &named {
        headers.remove(name);
    }
    // Few messages have any of them. One pass over all headers is faster than a search for each name.
    if headers
        .keys()
        .any(|name| HOP_BY_HOP.contains(&name.as_str()))
    {
        for name in HOP_BY_HOP {
            headers.remove(name);
        }
    }
    // As in Envoy, an empty one stays.
    if headers.get(TE).is_some_and(|te| !te.is_empty()) {
        let trailers = tokens(headers, &TE).any(|token| token == b"trailers");
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    if !keep_upgrade {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    } else if !tokens(headers, &CONNECTION).all(of_upgrade) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Whether `proxy-connection`, an old field that Envoy and clients know, ends the connection.
pub fn proxy_connection_closes(headers: &HeaderMap) -> bool {
    static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    tokens(headers, &PROXY_CONNECTION).any(|token| token.eq_ignore_ascii_case(b"close"))
}

/// Removes the length of a request's body if `connection` names it, as Envoy does. The body that was read by it goes on
/// in chunks.
pub(super) fn remove_named_length(headers: &mut HeaderMap) {
    let length = CONTENT_LENGTH.as_str().as_bytes();
    if tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(length)) {
        headers.remove(CONTENT_LENGTH);
    }
}

/// Whether an element of `connection` names no further field.
fn of_upgrade(token: &[u8]) -> bool {
    ["upgrade", "keep-alive", "close"]
        .iter()
        .any(|known| token.eq_ignore_ascii_case(known.as_bytes()))
}

/// The elements of a comma-separated field, over all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter();
    lines.flat_map(|value| elements(value.as_bytes()))
}

/// The elements of one line.
pub(super) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let tokens = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    tokens.filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::test_headers::headers;

    #[test]
    fn of_te_only_trailers_go_on() {
        for (te, left) in [
            ("trailers", Some("trailers")),
            ("gzip, trailers", Some("trailers")),
            ("gzip", None),
            ("", Some("")),
        ] {
            let mut headers = headers(&[("te", te)]);
            remove_hop_by_hop(&mut headers, false);
            let found = headers.get(TE).map(HeaderValue::as_bytes);
            assert_eq!(found, left.map(str::as_bytes), "{te}");
        }
    }

    #[test]
    fn a_connection_of_a_proxy_may_close() {
        for (value, closes) in [
            ("close", true),
            ("keep-alive, Close", true),
            ("keep-alive", false),
            ("", false),
        ] {
            let headers = headers(&[("proxy-connection", value)]);
            assert_eq!(proxy_connection_closes(&headers), closes, "{value}");
        }
        assert!(!proxy_connection_closes(&headers(&[(
            "connection",
            "close"
        )])));
    }

    #[test]
    fn only_websocket_is_an_upgrade_that_passes() {
        for (connection, upgrade, asked) in [
            ("upgrade", "websocket", UpgradeAsked::Websocket),
            ("keep-alive, Upgrade", "WebSocket", UpgradeAsked::Websocket),
            ("keep-alive", "websocket", UpgradeAsked::No),
            ("upgrade, http2-settings", "h2c", UpgradeAsked::No),
            ("upgrade", "websocket, h2c", UpgradeAsked::Other),
            ("upgrade", "TLS/1.0", UpgradeAsked::Other),
            ("upgrade", "", UpgradeAsked::No),
            ("upgrade, \u{fc}", "websocket", UpgradeAsked::Websocket),
            ("upgrade", "websocket, \u{fc}", UpgradeAsked::Other),
        ] {
            assert_eq!(
                upgrade_asked(&headers(&[
                    ("connection", connection),
                    ("upgrade", upgrade)
                ])),
                asked,
                "{connection} {upgrade}"
            );
        }
    }
}
