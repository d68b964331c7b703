//! Rules of the actions of a route other than forwarding: faults, CORS, redirects, rewrites, fixed
//! responses.

use super::check::Check;
use super::common::{self, duration, fraction};
use super::headers::cors_name;
use super::http_match::string_regex;
use super::regex;
use crate::http::grpc::grpc_status_of;
use crate::istio::fields::StringMatch;
use crate::istio::virtual_service::{
    Abort, CorsPolicy, Delay, HttpDirectResponse, HttpFaultInjection, HttpRedirect, HttpRewrite,
};

const KIB: usize = 1024;
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*",
];
/// Checks a cross-origin policy.
pub fn cors(check: &mut Check<'_>, policy: &CorsPolicy) {
    check.each("allowOrigins", &policy.allow_origins, |check, origin| {
        let is_empty = match origin {
            StringMatch::Present => true,
            StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Regex(text) => {
                text.is_empty()
            }
        };
        if is_empty {
            check.error("'' is not a valid match type for CORS allow origins");
        } else {
            check.require(string_regex(origin, "corsPolicy.allowOrigins"));
        }
    });
    check.each("allowMethods", &policy.allow_methods, |check, method| {
        if !METHODS.contains(&method.as_str()) {
            check.error(format!("{method:?} is not a supported HTTP method"));
        }
    });
    check.each("allowHeaders", &policy.allow_headers, |check, name| {
        check.require(cors_name(name));
    });
    check.each("exposeHeaders", &policy.expose_headers, |check, name| {
        check.require(cors_name(name));
    });
    check.some("maxAge", policy.max_age.as_ref(), |check, span| {
        check.require(duration(*span));
        if span.nanos() % 1_000_000_000 > 0 {
            check.error("max_age duration is accurate only to seconds precision");
        }
    });
}

/// Checks faults to inject.
pub fn fault(check: &mut Check<'_>, fault: &HttpFaultInjection) {
    if fault.abort.is_none() && fault.delay.is_none() {
        check.error("HTTP fault injection must have an abort and/or a delay");
    }
    check.some("abort", fault.abort.as_ref(), abort);
    check.some("delay", fault.delay.as_ref(), delay);
}

fn abort(check: &mut Check<'_>, abort: &Abort) {
    check.some(
        "percentage",
        abort.percentage.as_ref(),
        |check, percentage| {
            check.require(fraction(percentage.value));
        },
    );
    check.some("httpStatus", abort.http_status.as_ref(), |check, status| {
        http_status(check, *status);
    });
    check.some("grpcStatus", abort.grpc_status.as_ref(), |check, status| {
        if grpc_status_of(status).is_none() {
            check.error(format!(
                "gRPC status {status:?} is not supported. See https://github.com/grpc/grpc/blob/master/doc/statuscodes.md for a list of supported codes, for example 'NOT_FOUND'"
            ));
        }
    });
    check.some("http2Error", abort.http2_error.as_ref(), |check, _| {
        check.error("HTTP/2 abort fault injection not supported yet");
    });
    if abort.http_status.is_none() && abort.grpc_status.is_none() && abort.http2_error.is_none() {
        check.warn("abort configured, but error type not set");
    }
}

fn delay(check: &mut Check<'_>, delay: &Delay) {
    check.some(
        "percentage",
        delay.percentage.as_ref(),
        |check, percentage| {
            check.require(fraction(percentage.value));
        },
    );
    common::some_duration(check, "fixedDelay", delay.fixed_delay);
    check.some(
        "exponentialDelay",
        delay.exponential_delay.as_ref(),
        |check, span| {
            check.require(duration(*span));
            check.error("exponentialDelay not supported yet");
        },
    );
}

/// Istio's own range, which is wider than its message says.
fn http_status(check: &mut Check<'_>, status: i32) {
    if !(200..=600).contains(&status) {
        check.error(format!("HTTP status {status} is not in range 200-599"));
    }
}

/// Checks a redirect. Istio reports the first mistake only.
pub fn redirect(check: &mut Check<'_>, redirect: &HttpRedirect) {
    let has_port = redirect.port.is_some() || redirect.derive_port.is_some();
    let texts = [
        &redirect.uri,
        &redirect.authority,
        &redirect.scheme,
        &redirect.prefix_rewrite,
    ];
    if !has_port && texts.iter().all(|text| text.is_empty()) {
        check.error("redirect must specify URI, authority, scheme, or port");
    } else if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        check.error("redirect may only specify one of uri or prefix_rewrite");
    } else if redirect.redirect_code != 0 && !(300..=399).contains(&redirect.redirect_code) {
        let code = redirect.redirect_code;
        check.at("redirectCode", |check| {
            check.error(format!("{code} is not a valid redirect code, must be 3xx"));
        });
    } else if !["", "http", "https"].contains(&redirect.scheme.as_str()) {
        check.at("scheme", |check| {
            check.error("invalid redirect scheme, must be \"http\" or \"https\"");
        });
    } else if let Some(port) = redirect.port.filter(|port| *port > 0) {
        check.at("port", |check| check.require(common::port(port)));
    }
}

/// Checks a fixed response.
pub fn direct_response(check: &mut Check<'_>, response: &HttpDirectResponse) {
    check.some("body", response.body.as_ref(), |check, body| {
        let text = body.string.as_ref().map_or(0, String::len);
        let size = text.max(body.bytes.as_ref().map_or(0, |bytes| bytes.0.len()));
        if size > KIB * KIB {
            check.error("large direct_responses may impact control plane performance, must be less than 1MB");
        } else if size > 100 * KIB {
            check.warn("large direct_responses may impact control plane performance");
        }
    });
    check.at("status", |check| {
        http_status(check, response.status.cast_signed());
    });
}

/// Checks a rewrite.
pub fn rewrite(check: &mut Check<'_>, rewrite: &HttpRewrite) {
    if !rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_some() {
        check.error("rewrite may only contain one of URI or UriRegexRewrite");
        return;
    }
    if rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_none() && rewrite.authority.is_empty()
    {
        check.error(
            "rewrite must specify at least one of URI, UriRegexRewrite, or authority. Only one of URI or UriRegexRewrite may be specified",
        );
        return;
    }
    check.some(
        "uriRegexRewrite",
        rewrite.uri_regex_rewrite.as_ref(),
        |check, rewrite| {
            let rule = if rewrite.r#match.is_empty() || rewrite.rewrite.is_empty() {
                Err(
                    "UriRegexRewrite requires both Rewrite and Match fields to be specified"
                        .to_owned(),
                )
            } else {
                regex::expression(&rewrite.r#match, "HTTPRewrite.UriRegexRewrite.Match")
            };
            if rule.is_err() {
                check.error("UriRegexRewrite has errors");
            }
            check.require(rule);
        },
    );
}
