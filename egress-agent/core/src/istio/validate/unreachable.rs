//! Warnings about routes and conditions that can never be used, because an earlier one matches
//! everything.

use super::check::Check;
use crate::istio::fields::StringMatch;
use crate::istio::virtual_service::{HttpMatchRequest, HttpRoute, TcpRoute, TlsRoute};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

/// Pairs of prefixes that are compared. Routes beyond what this covers get no warning; the
/// verdict of an object does not hang on one warning among thousands.
const MAX_PAIRS: usize = 1_000_000;

/// Checks HTTP routes.
pub fn http(check: &mut Check<'_>, routes: &[HttpRoute]) {
    let conditions: Vec<Vec<HttpMatchRequest>> = routes
        .iter()
        .map(|route| {
            // The name of a condition plays no part in what it matches.
            route
                .r#match
                .iter()
                .map(|request| HttpMatchRequest {
                    name: String::new(),
                    ..request.clone()
                })
                .collect()
        })
        .collect();
    let route_name = |index: usize| label(&routes[index].name, index);
    let match_name = |rule: usize, index: usize| label(&routes[rule].r#match[index].name, index);
    let used = duplicates(check, "http", &conditions, &route_name, &match_name, true);
    let prefixes: Vec<Prefix<'_>> = used
        .into_iter()
        .filter_map(|(rule, index)| Prefix::new(&conditions[rule][index], rule, index))
        .collect();
    let mut budget = MAX_PAIRS;
    for (position, earlier) in prefixes.iter().enumerate() {
        for later in &prefixes[position + 1..] {
            budget = budget.saturating_sub(1);
            if budget == 0 {
                return;
            }
            if earlier.covers(later) {
                ineffective(check, ("http", later.rule, later.index), || Unused {
                    rule: route_name(later.rule),
                    condition: format!(
                        "{} of prefix {}",
                        match_name(later.rule, later.index),
                        later.path
                    ),
                    other: format!(
                        "{} of prefix {} on {}",
                        match_name(earlier.rule, earlier.index),
                        earlier.path,
                        route_name(earlier.rule)
                    ),
                });
            }
        }
    }
}

/// Checks TCP routes.
pub fn tcp(check: &mut Check<'_>, routes: &[TcpRoute]) {
    let conditions: Vec<Vec<_>> = routes.iter().map(|route| route.r#match.clone()).collect();
    duplicates(
        check,
        "tcp",
        &conditions,
        &|index| label("", index),
        &|_, index| label("", index),
        false,
    );
}

/// Checks TLS routes.
pub fn tls(check: &mut Check<'_>, routes: &[TlsRoute]) {
    let conditions: Vec<Vec<_>> = routes.iter().map(|route| route.r#match.clone()).collect();
    duplicates(
        check,
        "tls",
        &conditions,
        &|index| label("", index),
        &|_, index| label("", index),
        false,
    );
}

fn label(name: &str, index: usize) -> String {
    if name.is_empty() {
        format!("#{index}")
    } else {
        format!("{name:?}")
    }
}

/// A condition that is never used, as it is shown.
struct Unused {
    rule: String,
    condition: String,
    /// The rule that takes its requests.
    other: String,
}

fn ineffective(
    check: &mut Check<'_>,
    place: (&'static str, usize, usize),
    unused: impl FnOnce() -> Unused,
) {
    let (key, route, index) = place;
    check.element(key, route, |check| {
        check.element("match", index, |check| {
            check.warn_with(|| {
                let Unused { rule, condition, other } = unused();
                format!("virtualService rule {rule} match {condition} is not used (duplicate/overlapping match in rule {other})")
            });
        });
    });
}

/// Warns about conditions that stand twice, and about routes after a catch-all one. Returns the
/// places of conditions that are used. TCP and TLS routes after a catch-all are judged as if it
/// were not there, as in Istio.
fn duplicates<T: Debug>(
    check: &mut Check<'_>,
    key: &'static str,
    routes: &[Vec<T>],
    route_name: &dyn Fn(usize) -> String,
    match_name: &dyn Fn(usize, usize) -> String,
    stop_after_catch_all: bool,
) -> Vec<(usize, usize)> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut used = Vec::new();
    let mut catch_all = false;
    for (rule, conditions) in routes.iter().enumerate() {
        let unused = |check: &mut Check<'_>, reason: &str| {
            check.element(key, rule, |check| {
                check.warn_with(|| {
                    format!(
                        "virtualService rule {} not used ({reason})",
                        route_name(rule)
                    )
                });
            });
        };
        if conditions.is_empty() {
            if catch_all {
                unused(check, "only the last rule can have no matches");
            }
            catch_all = true;
            continue;
        }
        let mut repeated = 0;
        for (index, condition) in conditions.iter().enumerate() {
            if catch_all && stop_after_catch_all {
                unused(check, "route without matches defined before");
                continue;
            }
            match seen.entry(format!("{condition:?}")) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    ineffective(check, (key, rule, index), || Unused {
                        rule: route_name(rule),
                        condition: match_name(rule, index),
                        other: route_name(*first.get()),
                    });
                    repeated += 1;
                }
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(rule);
                    used.push((rule, index));
                }
            }
        }
        if repeated == conditions.len() {
            unused(check, "all matches used by prior rules");
        }
    }
    used
}

/// A condition with a path prefix, as far as Istio compares them.
struct Prefix<'m> {
    rule: usize,
    index: usize,
    path: &'m str,
    port: u32,
    method: String,
    authority: String,
    headers: BTreeMap<&'m str, String>,
    query: BTreeMap<&'m str, String>,
    without: BTreeMap<&'m str, String>,
}

impl<'m> Prefix<'m> {
    fn new(request: &'m HttpMatchRequest, rule: usize, index: usize) -> Option<Self> {
        let Some(StringMatch::Prefix(prefix)) = &request.uri else {
            return None;
        };
        let texts = |map: &'m BTreeMap<String, StringMatch>| -> BTreeMap<&'m str, String> {
            map.iter()
                .map(|(name, value)| (name.as_str(), text(Some(value))))
                .collect()
        };
        let method = Some(text(request.method.as_ref())).filter(|method| !method.is_empty());
        (!prefix.is_empty()).then(|| Self {
            rule,
            index,
            path: prefix,
            port: request.port,
            method: method.unwrap_or_else(|| "exact:GET".to_owned()),
            authority: text(request.authority.as_ref()),
            headers: texts(&request.headers),
            query: texts(&request.query_params),
            without: texts(&request.without_headers),
        })
    }

    /// Whether this one takes all that a later one would, by Istio's rule of thumb.
    fn covers(&self, later: &Self) -> bool {
        let maps_fit = |mine: &BTreeMap<&str, String>, theirs: &BTreeMap<&str, String>| {
            mine.len() == theirs.len()
                && mine.iter().all(|(name, value)| {
                    theirs
                        .get(name)
                        .is_some_and(|other| value.starts_with(other.as_str()))
                })
        };
        later.path != self.path
            && later.path.starts_with(self.path)
            && later.port == self.port
            && self.method.starts_with(&later.method)
            && self.authority.starts_with(&later.authority)
            && maps_fit(&self.headers, &later.headers)
            && maps_fit(&self.query, &later.query)
            && maps_fit(&self.without, &later.without)
    }
}

/// A match as a text to compare. Expressions compare as nothing.
fn text(value: Option<&StringMatch>) -> String {
    match value {
        Some(StringMatch::Exact(text)) if !text.is_empty() => format!("exact:{text}"),
        Some(StringMatch::Prefix(text)) if !text.is_empty() => format!("prefix:{text}"),
        Some(
            StringMatch::Present
            | StringMatch::Exact(_)
            | StringMatch::Prefix(_)
            | StringMatch::Regex(_),
        )
        | None => String::new(),
    }
}
