//! `VirtualService.http[].mirror` and `mirrors`: who gets a copy of which requests.
//!
//! Source: istio `pilot/pkg/networking/core/route/route.go` (`MirrorPercent`, `MirrorPercentByPolicy`). It finds no
//! addresses and sends nothing.

use super::fault::Fraction;
use super::retry_policy::RetryPolicy;
use super::route_policy::RoutePolicy;
use crate::istio::fields::{Destination, Percent};
use crate::istio::virtual_service::HttpRoute;
use http::HeaderValue;
use std::time::Duration;

/// The mirrors of a route, without those that get nothing. An unset share means all requests.
pub(crate) fn mirrors(route: &HttpRoute) -> impl Iterator<Item = (&Destination, Fraction)> {
    let of = |percent: &Option<Percent>| percent.as_ref().map(Fraction::of);
    let whole = route.mirror_percent.map(|percent| Percent {
        value: percent.into(),
    });
    let share = of(&route.mirror_percentage).or(of(&whole));
    let one = route.mirror.iter().map(move |to| (to, share));
    let several = route.mirrors.iter();
    let several = several.filter_map(move |m| Some((m.destination.as_ref()?, of(&m.percentage))));
    let all = one.chain(several);
    let all = all.map(|(to, share)| (to, share.unwrap_or(Fraction::ALL)));
    all.filter(|(_, share)| !share.is_none())
}

/// The policy of a copy: the timeout of its route, and no retries (Envoy `router.cc`, where the shadow stream starts).
pub fn policy_of_copies(timeout: Option<Duration>) -> RoutePolicy {
    RoutePolicy {
        timeout,
        retries: RetryPolicy {
            attempts: 0,
            ..RetryPolicy::default()
        },
        ..RoutePolicy::default()
    }
}

/// The host of a copy: `-shadow` stands behind the name, before the port (Envoy `shadow_writer_impl.cc`).
pub fn shadow_host(host: &HeaderValue) -> Option<HeaderValue> {
    let host = host.to_str().ok()?;
    // The colons of an IPv6 address are within brackets.
    let port = host.rfind(':').filter(|at| !host[*at..].contains(']'));
    let (name, port) = host.split_at(port.unwrap_or(host.len()));
    HeaderValue::from_str(&format!("{name}-shadow{port}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::istio::virtual_service::HttpMirrorPolicy;

    fn to(host: &str) -> Destination {
        Destination {
            host: host.to_owned(),
            ..Destination::default()
        }
    }

    #[test]
    fn an_unset_share_is_all_and_none_is_no_mirror() {
        let percent = |value| Some(Percent { value });
        for (whole, share, expected) in [
            (None, None, Some("100 %")),
            (Some(5), None, Some("5 %")),
            (Some(5), percent(0.5), Some("0.5 %")),
            (Some(5), percent(0.0), None),
            (Some(0), None, None),
            (None, percent(0.000_01), None),
        ] {
            let route = HttpRoute {
                mirror: Some(to("b.example")),
                mirror_percent: whole,
                mirror_percentage: share.clone(),
                ..HttpRoute::default()
            };
            let got: Vec<_> = mirrors(&route).map(|(_, f)| f.to_string()).collect();
            let expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(got, expected, "{whole:?} {share:?}");
        }
    }

    #[test]
    fn each_of_several_mirrors_has_its_own_share() {
        let of = |host, percentage| HttpMirrorPolicy {
            destination: host,
            percentage,
        };
        let route = HttpRoute {
            mirrors: vec![
                of(Some(to("b.example")), None),
                of(Some(to("c.example")), Some(Percent { value: 0.0 })),
                of(None, None),
                of(Some(to("d.example")), Some(Percent { value: 12.5 })),
            ],
            mirror_percent: Some(3),
            ..HttpRoute::default()
        };
        let got: Vec<_> = mirrors(&route)
            .map(|(to, share)| format!("{} {share}", to.host))
            .collect();
        assert_eq!(got, ["b.example 100 %", "d.example 12.5 %"]);
    }

    #[test]
    fn the_host_of_a_copy_has_its_suffix_before_the_port() {
        for (host, expected) in [
            ("a.example", "a.example-shadow"),
            ("a.example:8080", "a.example-shadow:8080"),
            ("192.0.2.1:80", "192.0.2.1-shadow:80"),
            ("[2001:db8::1]", "[2001:db8::1]-shadow"),
            ("[2001:db8::1]:80", "[2001:db8::1]-shadow:80"),
        ] {
            let got = shadow_host(&HeaderValue::from_static(host));
            assert_eq!(got, Some(HeaderValue::from_static(expected)));
        }
    }
}
