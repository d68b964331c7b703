//! Headers that Envoy keeps as one value: the values of a repeated one are joined by a comma (`appendToHeader` of
//! Envoy's `header_map_impl.cc`, for the names of its registry of inline headers). Routes see the joined value too.
//!
//! RFC 9110 §5.3 gives both forms one meaning.

use http::HeaderMap;
use http::header::HeaderValue;

const OF_REQUESTS: [&str; 30] = [
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "access-control-request-private-network",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-type",
    "grpc-accept-encoding",
    "grpc-timeout",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "origin",
    "pragma",
    "proxy-status",
    "referer",
    "te",
    "user-agent",
    "via",
    "x-client-trace-id",
    "x-envoy-attempt-count",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

const OF_RESPONSES: [&str; 21] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "age",
    "cache-control",
    "content-encoding",
    "content-type",
    "date",
    "etag",
    "expires",
    "grpc-message",
    "grpc-status",
    "last-modified",
    "location",
    "proxy-status",
    "vary",
    "via",
    "x-request-id",
];

/// Joins the repeated headers of a request.
pub fn join_request(headers: &mut HeaderMap) {
    join(headers, &OF_REQUESTS);
}

/// The same for a response.
pub fn join_response(headers: &mut HeaderMap) {
    join(headers, &OF_RESPONSES);
}

fn join(headers: &mut HeaderMap, names: &[&'static str]) {
    // Most heads repeat nothing.
    if headers.len() == headers.keys_len() {
        return;
    }
    for name in names {
        let values: Vec<_> = headers.get_all(*name).iter().collect();
        if values.len() < 2 {
            continue;
        }
        let values = values.iter().map(|value| value.as_bytes());
        let values: Vec<_> = values.filter(|value| !value.is_empty()).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&values.join(&b',')) {
            headers.insert(*name, joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::test_headers::headers;

    #[test]
    fn values_of_one_header_are_joined_in_their_order() {
        let given = [
            ("accept", "a"),
            ("x-own", "1"),
            ("accept", ""),
            ("x-own", "2"),
            ("accept", "b;q=1, c"),
        ];
        let mut map = headers(&given);
        join_request(&mut map);
        assert_eq!(map["accept"], "a,b;q=1, c");
        assert_eq!(map.get_all("accept").iter().count(), 1);
        assert_eq!(map.get_all("x-own").iter().count(), 2);
        let mut map = headers(&[
            ("x-envoy-attempt-count", "1"),
            ("x-envoy-attempt-count", "7"),
        ]);
        join_request(&mut map);
        assert_eq!(map["x-envoy-attempt-count"], "1,7");
        let mut map = headers(&[
            ("set-cookie", "a"),
            ("set-cookie", "b"),
            ("vary", "a"),
            ("vary", "b"),
        ]);
        join_response(&mut map);
        assert_eq!(map["vary"], "a,b");
        assert_eq!(map.get_all("set-cookie").iter().count(), 2);
    }
}
