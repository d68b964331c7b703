//! Matches against heads of requests, by table.

use super::*;
use crate::http::headers::receive_request;
use crate::istio::fields::StringMatch;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::collections::BTreeMap;

fn text(kind: &str, text: &str) -> StringMatch {
    match kind {
        "exact" => StringMatch::Exact(text.into()),
        "prefix" => StringMatch::Prefix(text.into()),
        "regex" => StringMatch::Regex(text.into()),
        _ => StringMatch::Present,
    }
}

fn fit(m: &HttpMatchRequest, line: &str, headers: &[(&str, &str)]) -> Fit {
    let (method, path) = line.split_once(' ').unwrap();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    receive_request(&mut map, || None);
    HttpMatch::new(m).fit(&RequestHead {
        authority: "a.com:80",
        method,
        path,
        headers: &map,
    })
}

#[test]
fn paths_match_without_their_query_and_prefixes_are_raw() {
    for (kind, pattern, any_case, path, expected) in [
        ("exact", "/foo", false, "/foo", Fit::Yes),
        ("exact", "/foo", false, "/foo?x=1", Fit::Yes),
        ("exact", "/foo", false, "/Foo", Fit::No),
        ("exact", "/foo", true, "/Foo", Fit::Yes),
        ("prefix", "/foo", false, "/foobar", Fit::Yes),
        ("prefix", "/foo/", false, "/foo", Fit::No),
        ("prefix", "/Foo", true, "/fOObar", Fit::Yes),
        ("prefix", "", false, "/", Fit::Yes),
        ("regex", "/a+", false, "/aaa", Fit::Yes),
        ("regex", "/a+", false, "/aaab", Fit::No),
        ("regex", "/a|/b", false, "/bc", Fit::No),
        ("regex", "/a{9999999}", false, "/", Fit::Unknown),
    ] {
        let m = HttpMatchRequest {
            uri: Some(text(kind, pattern)),
            ignore_uri_case: any_case,
            ..HttpMatchRequest::default()
        };
        assert_eq!(
            fit(&m, &format!("GET {path}"), &[]),
            expected,
            "{kind} {pattern} {path}"
        );
    }
}

#[test]
fn methods_schemes_and_authorities_keep_their_case() {
    let base = HttpMatchRequest::default;
    let exact = |s: &str| Some(text("exact", s));
    for (m, expected) in [
        (
            HttpMatchRequest {
                method: exact("GET"),
                ..base()
            },
            Fit::Yes,
        ),
        (
            HttpMatchRequest {
                method: exact("get"),
                ..base()
            },
            Fit::No,
        ),
        (
            HttpMatchRequest {
                scheme: exact("http"),
                ..base()
            },
            Fit::Yes,
        ),
        (
            HttpMatchRequest {
                scheme: exact("https"),
                ..base()
            },
            Fit::No,
        ),
        (
            HttpMatchRequest {
                authority: exact("a.com:80"),
                ..base()
            },
            Fit::Yes,
        ),
        (
            HttpMatchRequest {
                authority: exact("a.com"),
                ..base()
            },
            Fit::No,
        ),
        (base(), Fit::Yes),
    ] {
        assert_eq!(fit(&m, "GET /", &[]), expected, "{m:?}");
    }
}

#[test]
fn headers_match_by_name_in_any_case_and_each_value_by_itself() {
    for (name, kind, pattern, headers, expected) in [
        ("X-A", "exact", "1", &[("x-a", "1")][..], Fit::Yes),
        ("x-a", "exact", "1", &[], Fit::No),
        (
            "x-a",
            "exact",
            "1,2",
            &[("x-a", "1"), ("x-a", "2")],
            Fit::No,
        ),
        ("x-a", "exact", "1,2", &[("x-a", "1,2")], Fit::Yes),
        ("x-a", "exact", "2", &[("x-a", "1"), ("x-a", "2")], Fit::Yes),
        ("x-a", "exact", "1", &[("x-a", "1,2")], Fit::No),
        (
            "x-a",
            "prefix",
            "2",
            &[("x-a", "1"), ("x-a", "2b")],
            Fit::Yes,
        ),
        (
            "x-a",
            "regex",
            "[0-9]",
            &[("x-a", "a"), ("x-a", "2")],
            Fit::Yes,
        ),
        ("x-a", "present", "", &[("x-a", "")], Fit::Yes),
        ("x-a", "regex", "*", &[("x-a", "any")], Fit::Yes),
        ("x-a", "present", "", &[], Fit::No),
        (
            "a!#$%&'*+-.^_`|~z",
            "exact",
            "why",
            &[("a!#$%&'*+-.^_`|~z", "why")],
            Fit::Yes,
        ),
        (":method", "exact", "GET", &[], Fit::Yes),
        (":method", "exact", "POST", &[], Fit::No),
        (":authority", "prefix", "a.com", &[], Fit::Yes),
        ("host", "exact", "a.com:80", &[], Fit::Yes),
        // Headers that end at the proxy cannot be matched.
        (
            "connection",
            "present",
            "",
            &[("connection", "close")],
            Fit::No,
        ),
        (
            "transfer-encoding",
            "present",
            "",
            &[("transfer-encoding", "chunked")],
            Fit::No,
        ),
        (
            "x-envoy-max-retries",
            "present",
            "",
            &[("x-envoy-max-retries", "9")],
            Fit::No,
        ),
        (
            "content-length",
            "exact",
            "3",
            &[("content-length", "3")],
            Fit::Yes,
        ),
        ("x-forwarded-proto", "exact", "http", &[], Fit::Yes),
        (
            "x-forwarded-proto",
            "exact",
            "http",
            &[("x-forwarded-proto", "https")],
            Fit::No,
        ),
    ] {
        let m = HttpMatchRequest {
            headers: BTreeMap::from([(name.into(), text(kind, pattern))]),
            ..HttpMatchRequest::default()
        };
        assert_eq!(
            fit(&m, "GET /", headers),
            expected,
            "{name} {kind} {pattern} {headers:?}"
        );
    }
}

#[test]
fn the_scheme_is_what_x_forwarded_proto_says_it_is() {
    for (values, expected) in [
        (&[][..], "http"),
        (&["https"], "https"),
        (&["HTTPS"], "https"),
        (&["http"], "http"),
        (&["foo"], "http"),
        (&["https,http"], "http"),
        (&["https", "https"], "http"),
    ] {
        let headers: Vec<_> = values.iter().map(|v| ("x-forwarded-proto", *v)).collect();
        for scheme in ["http", "https"] {
            let by_field = HttpMatchRequest {
                scheme: Some(text("exact", scheme)),
                ..HttpMatchRequest::default()
            };
            let by_header = HttpMatchRequest {
                headers: BTreeMap::from([(":scheme".into(), text("exact", scheme))]),
                ..HttpMatchRequest::default()
            };
            for m in [by_field, by_header] {
                let fits = fit(&m, "GET /", &headers) == Fit::Yes;
                assert_eq!(fits, scheme == expected, "{values:?} {scheme}");
            }
        }
    }
}

#[test]
fn the_asterisk_of_options_is_a_path_of_its_own() {
    for (uri, expected) in [
        (None, Fit::No),
        (Some(text("prefix", "/")), Fit::No),
        (Some(text("exact", "*")), Fit::Yes),
        (Some(text("prefix", "")), Fit::Yes),
    ] {
        let m = HttpMatchRequest {
            uri,
            method: Some(text("exact", "OPTIONS")),
            ..HttpMatchRequest::default()
        };
        assert_eq!(fit(&m, "OPTIONS *", &[]), expected, "{m:?}");
    }
}

/// Istio's routing test "without headers", nine cases, and prefixes.
#[test]
fn an_absent_header_counts_as_empty_where_it_must_not_match() {
    for (kind, pattern, jason, empty, absent) in [
        ("exact", "jason", false, true, true),
        ("regex", "*", false, false, true),
        ("regex", ".*", false, false, false),
        ("prefix", "ja", false, true, true),
    ] {
        let m = HttpMatchRequest {
            without_headers: BTreeMap::from([("end-user".into(), text(kind, pattern))]),
            ..HttpMatchRequest::default()
        };
        let seen = [&[("end-user", "jason")][..], &[("end-user", "")], &[]]
            .map(|headers| fit(&m, "GET /", headers) == Fit::Yes);
        assert_eq!(seen, [jason, empty, absent], "{kind} {pattern}");
        // None of several values may match.
        let both = [("end-user", "else"), ("end-user", "jason")];
        assert_eq!(
            fit(&m, "GET /", &both) == Fit::Yes,
            jason,
            "{kind} {pattern}"
        );
    }
}

#[test]
fn query_parameters_are_compared_as_they_stand_and_the_first_counts() {
    for (name, kind, pattern, path, expected) in [
        ("k", "exact", "v", "/?k=v", Fit::Yes),
        ("k", "exact", "v", "/?k=w&k=v", Fit::No),
        ("k", "exact", "a b", "/?x=1&k=a%20b", Fit::No),
        ("k", "exact", "a%20b", "/?x=1&k=a%20b", Fit::Yes),
        ("k", "exact", "a b", "/?k=a+b", Fit::No),
        ("k", "exact", "v", "/?%6b=v", Fit::No),
        ("k", "present", "", "/?k", Fit::Yes),
        ("k", "present", "", "/?kk=1", Fit::No),
        ("k", "prefix", "v", "/?k=vw", Fit::Yes),
        ("k", "regex", "[0-9]+", "/?k=12", Fit::Yes),
        ("k", "exact", "v", "/k=v", Fit::No),
    ] {
        let m = HttpMatchRequest {
            query_params: BTreeMap::from([(name.into(), text(kind, pattern))]),
            ..HttpMatchRequest::default()
        };
        assert_eq!(
            fit(&m, &format!("GET {path}"), &[]),
            expected,
            "{kind} {pattern} {path}"
        );
    }
}
