//! Rules of the conditions on an HTTP request.

use super::check::{Check, Rule};
use super::headers::match_name;
use super::{common, names, regex};
use crate::istio::fields::StringMatch;
use crate::istio::virtual_service::HttpMatchRequest;

/// Checks one condition of a route.
pub fn http_match(check: &mut Check<'_>, request: &HttpMatchRequest) {
    check.each_entry("headers", &request.headers, |check, name, value| {
        check.require(match_name(name));
        check.require(string_match(value, "headers"));
    });
    check.each_entry(
        "withoutHeaders",
        &request.without_headers,
        |check, name, value| {
            check.require(match_name(name));
            // `*` is no expression here but means that the header is there.
            if *value != StringMatch::Regex("*".to_owned()) {
                check.require(string_match(value, "withoutHeaders"));
            }
        },
    );
    // An empty prefix matches every path; elsewhere Envoy rejects it.
    check.some("uri", request.uri.as_ref(), |check, value| {
        check.require(string_regex(value, "uri"));
    });
    for (key, value) in [
        ("scheme", &request.scheme),
        ("method", &request.method),
        ("authority", &request.authority),
    ] {
        check.some(key, value.as_ref(), |check, value| {
            check.require(string_match(value, key));
        });
    }
    check.each_entry("queryParams", &request.query_params, |check, _, value| {
        check.require(string_match(value, "queryParams"));
    });
    if request.port != 0 {
        check.at("port", |check| check.require(common::port(request.port)));
    }
    common::labels(check, "sourceLabels", &request.source_labels);
    common::gateway_names(check, &request.gateways);
    let namespace = &request.source_namespace;
    if !namespace.is_empty() && !names::is_label(namespace) {
        check.at("sourceNamespace", |check| {
            check.error(format!("sourceNamespace match {namespace} is invalid"));
        });
    }
}

/// A string match that is no empty prefix and no bad expression.
fn string_match(value: &StringMatch, place: &str) -> Rule {
    if *value == StringMatch::Prefix(String::new()) {
        return Err(format!(
            "{place:?}: prefix string match should not be empty"
        ));
    }
    string_regex(value, place)
}

/// A string match whose expression, if it has one, is good.
pub fn string_regex(value: &StringMatch, place: &str) -> Rule {
    match value {
        StringMatch::Regex(text) if text.is_empty() => {
            Err(format!("{place:?}: regex string match should not be empty"))
        }
        StringMatch::Regex(text) => regex::expression(text, place),
        StringMatch::Present | StringMatch::Exact(_) | StringMatch::Prefix(_) => Ok(()),
    }
}
