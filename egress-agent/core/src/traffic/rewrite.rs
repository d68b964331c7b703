//! `VirtualService.http[].rewrite`: another path and another authority for the upstream.
//!
//! Source: Envoy `source/common/router/config_impl.cc` (`finalizePathHeader`, `finalizeHostHeader`). It changes no
//! message; the proxy does.

use super::path_spec::PathSpec;
use super::string_test::compile;
use crate::istio::virtual_service::{HttpRoute, RegexRewrite};
use http::HeaderValue;
use regex::bytes::{Captures, Regex};

/// See the module. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// The new authority.
    pub authority: Option<HeaderValue>,
    path: PathRewrite,
}

#[derive(Clone, Debug, Default)]
enum PathRewrite {
    #[default]
    Keep,
    /// Replaces what the match says of the path.
    Matched(String),
    Regex(Regex, Substitution),
}

impl PartialEq for PathRewrite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Keep, Self::Keep) => true,
            (Self::Matched(a), Self::Matched(b)) => a == b,
            (Self::Regex(a, x), Self::Regex(b, y)) => a.as_str() == b.as_str() && x == y,
            (Self::Keep | Self::Matched(_) | Self::Regex(..), _) => false,
        }
    }
}

/// A replacement text of RE2: `\1` is a group, `\0` the whole match, `\\` a backslash.
#[derive(Clone, Debug, PartialEq)]
struct Substitution(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Group(usize),
}

impl Substitution {
    /// `None` if a backslash stands before something else, or a group does not exist.
    fn new(text: &str, groups: usize) -> Option<Self> {
        let mut parts = vec![Part::Text(String::new())];
        let mut rest = text.chars();
        while let Some(next) = rest.next() {
            let next = match next {
                '\\' => rest.next()?,
                plain => {
                    push(&mut parts, plain);
                    continue;
                }
            };
            match next.to_digit(10) {
                Some(group) => {
                    let group = usize::try_from(group).ok().filter(|g| *g < groups)?;
                    parts.push(Part::Group(group));
                }
                None if next == '\\' => push(&mut parts, '\\'),
                None => return None,
            }
        }
        Some(Self(parts))
    }

    fn expand(&self, found: &Captures<'_>) -> Vec<u8> {
        let part = |part| match part {
            &Part::Group(group) => found.get(group).map_or(&b""[..], |m| m.as_bytes()),
            Part::Text(text) => text.as_bytes(),
        };
        let parts: Vec<&[u8]> = self.0.iter().map(part).collect();
        parts.concat()
    }
}

fn push(parts: &mut Vec<Part>, text: char) {
    match parts.last_mut() {
        Some(Part::Text(last)) => last.push(text),
        _ => parts.push(Part::Text(text.into())),
    }
}

fn regex_of(rewrite: &RegexRewrite) -> Option<(Regex, Substitution)> {
    let regex = compile(&rewrite.r#match)?;
    let substitution = Substitution::new(&rewrite.rewrite, regex.captures_len())?;
    Some((regex, substitution))
}

/// Whether a rewrite by expression can be carried out.
pub(crate) fn has_regex(rewrite: &RegexRewrite) -> bool {
    regex_of(rewrite).is_some()
}

impl From<&HttpRoute> for Rewrite {
    fn from(route: &HttpRoute) -> Self {
        let Some(rewrite) = &route.rewrite else {
            return Self::default();
        };
        let regex = rewrite.uri_regex_rewrite.as_ref().and_then(regex_of);
        let path = match regex {
            Some((regex, substitution)) => PathRewrite::Regex(regex, substitution),
            None if rewrite.uri.is_empty() => PathRewrite::Keep,
            None => PathRewrite::Matched(rewrite.uri.clone()),
        };
        let authority = HeaderValue::from_str(&rewrite.authority).ok();
        Self {
            authority: authority.filter(|a| !a.is_empty()),
            path,
        }
    }
}

/// A target with its path replaced as far as a match says it, and its query kept.
pub(super) fn replace_matched(target: &str, spec: &PathSpec, by: &str) -> String {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    [by, &target[spec.replaced(path)..]].concat()
}

impl Rewrite {
    /// The target for the upstream; `None` if the rule leaves it as it is. `spec` is of the match that the request met.
    pub fn target(&self, target: &str, spec: &PathSpec) -> Option<String> {
        match &self.path {
            PathRewrite::Keep => None,
            PathRewrite::Matched(by) => Some(replace_matched(target, spec, by)),
            PathRewrite::Regex(regex, substitution) => {
                let at = target.find('?').unwrap_or(target.len());
                let (path, query) = target.split_at(at);
                let by = |found: &Captures<'_>| substitution.expand(found);
                let path = regex.replace_all(path.as_bytes(), by);
                // A path has ASCII characters only, so its parts are text.
                Some([String::from_utf8_lossy(&path).as_ref(), query].concat())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::istio::virtual_service::HttpRewrite;

    fn rewrite(uri: &str, regex: Option<(&str, &str)>) -> Rewrite {
        let regex = regex.map(|(m, r)| RegexRewrite {
            r#match: m.into(),
            rewrite: r.into(),
        });
        Rewrite::from(&HttpRoute {
            rewrite: Some(HttpRewrite {
                uri: uri.into(),
                uri_regex_rewrite: regex,
                ..HttpRewrite::default()
            }),
            ..HttpRoute::default()
        })
    }

    #[test]
    fn a_prefix_is_replaced_as_it_stands_and_other_matches_replace_the_whole_path() {
        for (spec, uri, target, to) in [
            (
                PathSpec::Prefix("/foo".into()),
                "/",
                "/foo/bar?x=1",
                "//bar?x=1",
            ),
            (PathSpec::Prefix("/foo/".into()), "/", "/foo/bar", "/bar"),
            (PathSpec::Prefix("/FOO".into()), "/b", "/foo", "/b"),
            (PathSpec::Any, "/v1/", "/a?q", "/v1/a?q"),
            (
                PathSpec::Exact("/foo".into()),
                "/new/path",
                "/foo?key=value",
                "/new/path?key=value",
            ),
            (
                PathSpec::Regex("/f.*".into()),
                "/new",
                "/foo/bar?k",
                "/new?k",
            ),
        ] {
            assert_eq!(
                rewrite(uri, None).target(target, &spec).as_deref(),
                Some(to)
            );
        }
        assert_eq!(Rewrite::default().target("/a", &PathSpec::Any), None);
    }

    #[test]
    fn an_expression_replaces_each_place_of_the_path_but_not_the_query() {
        for (expression, by, target, to) in [
            (
                r"^/service/([^/]+)(/.*)$",
                r"\2/instance/\1",
                "/service/foo/v1/api?a=b",
                "/v1/api/instance/foo?a=b",
            ),
            ("one", "two", "/one/x/one?one", "/two/x/two?one"),
            ("^/a", r"\0\\", "/a", r"/a\"),
            ("nothing", "x", "/a", "/a"),
        ] {
            let rewrite = rewrite("", Some((expression, by)));
            assert_eq!(rewrite.target(target, &PathSpec::Any).as_deref(), Some(to));
        }
        for (expression, by) in [("(", "x"), ("a", r"\1"), ("a", r"\x"), ("a", "\\")] {
            let broken = RegexRewrite {
                r#match: expression.into(),
                rewrite: by.into(),
            };
            assert!(!has_regex(&broken), "{expression} {by}");
        }
    }
}
