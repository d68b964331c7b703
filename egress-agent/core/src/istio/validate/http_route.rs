//! Rules of HTTP routes: which actions go together, destinations, mirrors and retries.

use super::check::{Check, Rule};
use super::common::{self, some_duration};
use super::headers::{headers, is_authority};
use super::http_actions::{cors, direct_response, fault, redirect, rewrite};
use super::http_match::http_match;
use crate::istio::fields::StringMatch;
use crate::istio::virtual_service::{HttpMirrorPolicy, HttpRetry, HttpRoute, HttpRouteDestination};

/// Retry conditions that Envoy knows (its `x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
const RETRY_CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// Checks one route.
pub fn http_route(check: &mut Check<'_>, route: &HttpRoute, is_delegate: bool) {
    conflicts(check, route, is_delegate);
    check.errors_only(|check| check.each("match", &route.r#match, http_match));
    headers(check, route.headers.as_ref());
    check.some("corsPolicy", route.cors_policy.as_ref(), cors);
    check.errors_only(|check| check.some("fault", route.fault.as_ref(), fault));
    mirrors(check, route);
    check.some("redirect", route.redirect.as_ref(), redirect);
    prefix_redirect(check, route);
    check.some(
        "directResponse",
        route.direct_response.as_ref(),
        direct_response,
    );
    check.some("retries", route.retries.as_ref(), retries);
    check.some("rewrite", route.rewrite.as_ref(), rewrite);
    check.require(single_authority(route));
    destinations(check, &route.route);
    some_duration(check, "timeout", route.timeout);
}

fn conflicts(check: &mut Check<'_>, route: &HttpRoute, is_delegate: bool) {
    if route.delegate.is_some() && !is_delegate {
        for (is_set, key) in [
            (route.redirect.is_some(), "redirect"),
            (!route.route.is_empty(), "route"),
        ] {
            if is_set {
                let text = format!("root HTTP route {} must not specify {key}", route.name);
                check.at(key, |check| check.error(text));
            }
        }
        return;
    }
    if route.delegate.is_some() {
        check.at("delegate", |check| {
            check.error("delegate HTTP route cannot contain delegate");
        });
    }
    let exclusive = |check: &mut Check<'_>, action: &str| {
        if !route.route.is_empty() {
            check.error(format!("HTTP route cannot contain both route and {action}"));
        }
        if route.fault.is_some() {
            check.error(format!("HTTP route cannot contain both fault and {action}"));
        }
        if route.rewrite.is_some() {
            check.error(format!(
                "HTTP route rule cannot contain both rewrite and {action}"
            ));
        }
    };
    if route.redirect.is_some() {
        exclusive(check, "redirect");
        if route.direct_response.is_some() {
            check.error("HTTP route rule cannot contain both direct_response and redirect");
        }
    } else if route.direct_response.is_some() {
        exclusive(check, "direct_response");
    } else if route.route.is_empty() {
        check.error("HTTP route, redirect or direct_response is required");
    }
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        check.error("HTTP route cannot contain both mirror and mirrors");
    }
}

/// A prefix can be swapped only where one was matched.
fn prefix_redirect(check: &mut Check<'_>, route: &HttpRoute) {
    if route
        .redirect
        .as_ref()
        .is_none_or(|redirect| redirect.prefix_rewrite.is_empty())
    {
        return;
    }
    let is_prefix = |uri: &StringMatch| matches!(uri, StringMatch::Prefix(_));
    if route
        .r#match
        .iter()
        .filter_map(|request| request.uri.as_ref())
        .any(|uri| !is_prefix(uri))
    {
        check.at("redirect", |check| {
            check
                .error("redirect prefix_rewrite requires all URI matches to use prefix match type");
        });
    }
}

fn mirrors(check: &mut Check<'_>, route: &HttpRoute) {
    check.some(
        "mirrorPercent",
        route.mirror_percent.as_ref(),
        |check, percent| {
            if *percent > 100 {
                check.error(format!(
                    "mirror_percent must have a max value of 100 (it has {percent})"
                ));
            }
            check.warn(
                "using deprecated setting \"mirrorPercent\", use \"mirrorPercentage\" instead",
            );
        },
    );
    check.some(
        "mirrorPercentage",
        route.mirror_percentage.as_ref(),
        |check, percentage| {
            mirror_share(check, "mirror_percentage", percentage.value);
        },
    );
    check.some("mirror", route.mirror.as_ref(), common::destination);
    check.each(
        "mirrors",
        &route.mirrors,
        |check, mirror: &HttpMirrorPolicy| {
            if mirror.destination.is_none() {
                check.error("destination is required for mirrors");
                return;
            }
            check.some(
                "destination",
                mirror.destination.as_ref(),
                common::destination,
            );
            check.some(
                "percentage",
                mirror.percentage.as_ref(),
                |check, percentage| {
                    mirror_share(check, "mirror percentage", percentage.value);
                },
            );
        },
    );
}

fn mirror_share(check: &mut Check<'_>, name: &str, value: f64) {
    if value > 100.0 {
        check.error(format!(
            "{name} must have a max value of 100 (it has {value:.6})"
        ));
    }
    if value < 0.0 {
        check.error(format!(
            "{name} must have a min value of 0 (it has {value:.6})"
        ));
    }
}

fn retries(check: &mut Check<'_>, retries: &HttpRetry) {
    if retries.attempts < 0 {
        check.at("attempts", |check| {
            check.error("attempts cannot be negative");
        });
    }
    let has_policy = retries.per_try_timeout.is_some()
        || !retries.retry_on.is_empty()
        || retries.retry_remote_localities.is_some();
    if retries.attempts == 0 && has_policy {
        check.error("http retry policy configured when attempts are set to 0 (disabled)");
    }
    some_duration(check, "perTryTimeout", retries.per_try_timeout);
    if !retries.retry_on.is_empty() {
        check.at("retryOn", |check| {
            for condition in retries.retry_on.split(',') {
                let is_status = condition.parse::<i64>().is_ok_and(is_known_status);
                if !is_status && !RETRY_CONDITIONS.contains(&condition) {
                    check.error(format!("{condition:?} is not a valid retryOn policy"));
                }
            }
        });
    }
    some_duration(check, "backoff", retries.backoff);
}

/// Status codes that Go's `http.StatusText` has a word for.
fn is_known_status(status: i64) -> bool {
    matches!(
        status,
        100..=103 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=418 | 421..=426 | 428 | 429 | 431 | 451 | 500..=508 | 510 | 511
    )
}

/// The authority is changed in one place only.
fn single_authority(route: &HttpRoute) -> Rule {
    let mut current = route
        .rewrite
        .as_ref()
        .map_or("", |rewrite| rewrite.authority.as_str());
    let request = route
        .headers
        .as_ref()
        .and_then(|headers| headers.request.as_ref());
    for (name, value) in request
        .into_iter()
        .flat_map(|request| request.set.iter().chain(&request.add))
    {
        if !is_authority(name) {
            continue;
        }
        if !current.is_empty() {
            return Err(format!(
                "authority header cannot be set multiple times: have {current:?}, attempting to set {value:?}"
            ));
        }
        current = value;
    }
    Ok(())
}

fn destinations(check: &mut Check<'_>, routes: &[HttpRouteDestination]) {
    check.each("route", routes, |check, route| {
        if route.destination.is_none() {
            check.error("destination is required");
        }
        headers(check, route.headers.as_ref());
        check.some(
            "destination",
            route.destination.as_ref(),
            common::destination,
        );
        check.at("weight", |check| check.require(weight(route.weight)));
    });
    check.at("route", |check| {
        check.require(total_weight(routes.iter().map(|route| route.weight)));
    });
}

/// At least 0.
pub fn weight(weight: i32) -> Rule {
    if weight < 0 {
        Err(format!("weight {weight} < 0"))
    } else {
        Ok(())
    }
}

/// Several destinations must have weight together; a single one needs none.
pub fn total_weight(weights: impl ExactSizeIterator<Item = i32>) -> Rule {
    // Istio sums in 32 bits and lets the sum wrap.
    if weights.len() > 1 && weights.fold(0_i32, i32::wrapping_add) == 0 {
        return Err("total destination weight = 0".to_owned());
    }
    Ok(())
}
