//! `VirtualService.http[].redirect`: the status and the `location` of a redirect.
//!
//! Source: istio `ApplyRedirect`, Envoy `source/common/http/utility.cc` (`newUri`). It sends nothing.

use super::path_spec::PathSpec;
use super::rewrite::replace_matched;
use crate::istio::virtual_service::{HttpRedirect, RedirectPortSelection};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// The status.
    pub status: u16,
    scheme: String,
    authority: String,
    port: Port,
    path: Path,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Port {
    #[default]
    Keep,
    Number(u32),
    Dialled,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Path {
    #[default]
    Keep,
    Whole(String),
    Matched(String),
}

/// What a `location` is made from besides the rule.
#[derive(Clone, Copy, Debug)]
pub struct RedirectedFrom<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The authority as sent.
    pub authority: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// The port that the client dialled.
    pub port: u16,
    /// The path of the match that the request met.
    pub spec: &'a PathSpec,
}

/// Whether the status of a redirect is one that Envoy knows. Istio drops the action of a route with another.
pub(crate) fn has_status(redirect: &HttpRedirect) -> bool {
    [0, 301, 302, 303, 307, 308].contains(&redirect.redirect_code)
}

impl From<&HttpRedirect> for Redirect {
    fn from(redirect: &HttpRedirect) -> Self {
        let status = match redirect.redirect_code {
            0 => 301,
            code => u16::try_from(code).unwrap_or(301),
        };
        let port = match (redirect.port, redirect.derive_port) {
            (Some(number), _) if number > 0 => Port::Number(number),
            (_, Some(RedirectPortSelection::FromRequestPort)) => Port::Dialled,
            _ => Port::Keep,
        };
        let path = match (&*redirect.uri, &*redirect.prefix_rewrite) {
            ("", "") => Path::Keep,
            ("", prefix) => Path::Matched(prefix.to_owned()),
            (uri, _) => Path::Whole(uri.to_owned()),
        };
        Self {
            status,
            scheme: redirect.scheme.clone(),
            authority: redirect.authority.clone(),
            port,
            path,
        }
    }
}

impl Redirect {
    /// The value of `location`.
    pub fn location(&self, from: &RedirectedFrom<'_>) -> String {
        let scheme = or(&self.scheme, from.scheme);
        let port = self.port(from.port);
        let authority = match &*self.authority {
            "" => own_authority(from, scheme, port.is_some()),
            authority => authority,
        };
        let path = match &self.path {
            Path::Keep => from.target.to_owned(),
            Path::Matched(by) => replace_matched(from.target, from.spec, by),
            Path::Whole(path) => {
                let slash = if path.starts_with('/') { "" } else { "/" };
                let query = from.target.find('?').filter(|_| !path.contains('?'));
                [slash, path, query.map_or("", |at| &from.target[at..])].concat()
            }
        };
        match port {
            Some(port) => format!("{scheme}://{authority}:{port}{path}"),
            None => format!("{scheme}://{authority}{path}"),
        }
    }

    /// The port to name. That which the client dialled is left out if it is the usual one of the rule's scheme.
    fn port(&self, dialled: u16) -> Option<u32> {
        let usual = match or(&self.scheme, "http") {
            "https" => 443,
            _ => 80,
        };
        match self.port {
            Port::Keep => None,
            Port::Number(port) => Some(port),
            Port::Dialled => Some(dialled).filter(|port| *port != usual).map(u32::from),
        }
    }
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// The authority of the request. Its port is left out if the redirect names another, or if it was the usual one of a
/// scheme that the redirect changes (Envoy `processRequestHost`).
fn own_authority<'a>(from: &RedirectedFrom<'a>, scheme: &str, named: bool) -> &'a str {
    let authority = from.authority;
    let at = if authority.starts_with('[') {
        authority.rfind("]:").map(|at| at + 1)
    } else {
        authority.rfind(':')
    };
    let Some(at) = at else {
        return authority;
    };
    let usual = match from.scheme {
        "https" => ":443",
        _ => ":80",
    };
    let changed = scheme != from.scheme && &authority[at..] == usual;
    if named || changed {
        &authority[..at]
    } else {
        authority
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(redirect: &HttpRedirect, authority: &str, target: &str, port: u16) -> String {
        let from = RedirectedFrom {
            scheme: "http",
            authority,
            target,
            port,
            spec: &PathSpec::Prefix("/foo/".into()),
        };
        Redirect::from(redirect).location(&from)
    }

    #[test]
    fn the_location_is_envoys() {
        let none = HttpRedirect::default;
        let derived = || HttpRedirect {
            derive_port: Some(RedirectPortSelection::FromRequestPort),
            ..none()
        };
        let uri = |uri: &str| HttpRedirect {
            uri: uri.into(),
            ..none()
        };
        for (redirect, authority, target, port, expected) in [
            (
                uri("/new/path"),
                "a.b",
                "/foo/?key=value",
                80,
                "http://a.b/new/path?key=value",
            ),
            (
                uri("/new?x=y"),
                "a.b",
                "/foo/?key=value",
                80,
                "http://a.b/new?x=y",
            ),
            (
                HttpRedirect {
                    prefix_rewrite: "/new/".into(),
                    ..none()
                },
                "a.b",
                "/foo/bar?k",
                80,
                "http://a.b/new/bar?k",
            ),
            (
                HttpRedirect {
                    scheme: "https".into(),
                    ..derived()
                },
                "b",
                "/foo",
                80,
                "https://b:80/foo",
            ),
            (derived(), "b", "/foo", 80, "http://b/foo"),
            (derived(), "b:80", "/foo", 80, "http://b:80/foo"),
            (derived(), "b", "/foo", 85, "http://b:85/foo"),
            (derived(), "b:85", "/foo", 85, "http://b:85/foo"),
            (
                HttpRedirect {
                    scheme: "https".into(),
                    ..none()
                },
                "b:80",
                "/foo",
                80,
                "https://b/foo",
            ),
            (
                HttpRedirect {
                    scheme: "https".into(),
                    ..none()
                },
                "[2001:db8::1]:80",
                "/foo",
                80,
                "https://[2001:db8::1]/foo",
            ),
            (uri("x"), "a.b", "/foo/?k", 80, "http://a.b/x?k"),
            (
                HttpRedirect {
                    authority: "c.d".into(),
                    port: Some(80),
                    ..none()
                },
                "a.b",
                "/foo?q",
                80,
                "http://c.d:80/foo?q",
            ),
            (
                HttpRedirect {
                    authority: "c.d".into(),
                    port: Some(8443),
                    ..none()
                },
                "b:80",
                "/foo?q",
                80,
                "http://c.d:8443/foo?q",
            ),
        ] {
            assert_eq!(location(&redirect, authority, target, port), expected);
        }
        assert_eq!(Redirect::from(&none()).status, 301);
    }
}
