//! Host names as Istio compares them: form, wildcards, specificity and short names.
//!
//! A wildcard is a star and a suffix of text: `*.example.com` covers names of any depth below
//! `example.com` but not itself, and `*example.com` covers `badexample.com` as well
//! (istio `pkg/config/host/name.go`). Does not know which hosts are registered.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::ops::Bound;
use std::sync::Arc;

/// The wildcards in a sorted map of hosts: every text that begins with a star. Hosts of invalid objects may sort before
/// them, because ASCII has printable characters before the star.
pub const WILDCARDS: (Bound<&str>, Bound<&str>) = (Bound::Included("*"), Bound::Excluded("+"));

/// The form in which hosts are kept and compared: lower case, no final dot.
pub fn canonical(host: &str) -> Arc<str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.to_ascii_lowercase().into()
}

/// Whether a host is a pattern.
pub fn is_wildcard(host: &str) -> bool {
    host.starts_with('*')
}

/// Whether a host is a wildcard that does not begin a label, as `*-a.example.com`.
pub fn is_partial(host: &str) -> bool {
    let suffix = host.strip_prefix('*');
    suffix.is_some_and(|suffix| !suffix.is_empty() && !suffix.starts_with('.'))
}

/// Whether everything that `host` stands for falls under `pattern`. Both in canonical form; both
/// may be wildcards (Istio's `SubsetOf`).
pub fn covers(pattern: &str, host: &str) -> bool {
    match (pattern.strip_prefix('*'), host.strip_prefix('*')) {
        (None, None) => pattern == host,
        (None, Some(_)) => false,
        (Some(suffix), None) => host.ends_with(suffix),
        (Some(suffix), Some(inner)) => inner.ends_with(suffix),
    }
}

/// All ends of a text, the longest first: itself, and at last the empty one. A host falls under the
/// wildcards that are a star and one of its ends.
pub fn ends(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.char_indices().map(|(at, _)| at);
    starts.chain([text.len()]).map(|at| &text[at..])
}

/// A host and every wildcard over it, the most specific first. In canonical form.
pub fn patterns(host: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let bare = host.strip_prefix('*').unwrap_or(host);
    let wildcards = ends(bare).map(|end| Cow::Owned(format!("*{end}")));
    let wider = wildcards.filter(move |pattern| pattern != host);
    std::iter::once(Cow::Borrowed(host)).chain(wider)
}

/// Sort key: the most specific host first, exact names before wildcards, longer suffixes before
/// shorter ones, then by text.
pub fn specificity(host: &str) -> (bool, Reverse<usize>, &str) {
    if is_wildcard(host) {
        (true, Reverse(host.len()), host)
    } else {
        (false, Reverse(0), host)
    }
}

/// The name that a `VirtualService` or `DestinationRule` means: one without a dot is short for a
/// service of its namespace (istio `pilot/pkg/model/virtualservice.go`,
/// `ResolveShortnameToFQDN`). In canonical form.
pub fn full_name(host: &str, namespace: &str, domain: &str) -> Arc<str> {
    if host.contains('.') || host.contains(':') || host == "*" {
        canonical(host)
    } else {
        canonical(&format!("{host}.{namespace}.svc.{domain}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{canonical, covers, full_name, patterns, specificity};

    #[test]
    fn wildcards_cover_by_suffix_of_text() {
        for (pattern, host, expected) in [
            ("a.com", "a.com", true),
            ("a.com", "b.a.com", false),
            ("*.a.com", "b.a.com", true),
            ("*.a.com", "c.b.a.com", true),
            ("*.a.com", "a.com", false),
            ("*.a.com", "ba.com", false),
            ("*a.com", "a.com", true),
            ("*a.com", "bada.com", true),
            ("*a.com", "x.bada.com", true),
            ("*-x.a.com", "b-x.a.com", true),
            ("*-x.a.com", "b.a.com", false),
            ("*.a.com", "*.b.a.com", true),
            ("*.b.a.com", "*.a.com", false),
            ("*.a.com", "*.a.com", true),
            ("a.com", "*.a.com", false),
            ("*", "anything.at.all", true),
        ] {
            assert_eq!(covers(pattern, host), expected, "{pattern} {host}");
        }
    }

    #[test]
    fn exact_hosts_come_first_then_the_longest_wildcard() {
        let mut hosts = ["*", "*.com", "b.a.com", "*.a.com", "a.com", "*.b.com"];
        hosts.sort_by_key(|h| specificity(h));
        assert_eq!(
            hosts,
            ["a.com", "b.a.com", "*.a.com", "*.b.com", "*.com", "*"]
        );
    }

    #[test]
    fn the_patterns_of_a_host_are_itself_and_every_wildcard_over_it() {
        for (host, expected) in [
            ("b.a", vec!["b.a", "*b.a", "*.a", "*a", "*"]),
            ("*.a", vec!["*.a", "*a", "*"]),
            ("*", vec!["*"]),
            ("ä", vec!["ä", "*ä", "*"]),
        ] {
            let found: Vec<_> = patterns(host).collect();
            assert_eq!(found, expected);
            assert!(found.iter().all(|pattern| covers(pattern, host)), "{host}");
        }
    }

    #[test]
    fn a_name_without_a_dot_is_of_the_namespace() {
        for (host, full) in [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("HTTPBIN.org", "httpbin.org"),
            ("httpbin.org.", "httpbin.org"),
            ("*", "*"),
        ] {
            assert_eq!(&*full_name(host, "shop", "cluster.local"), full);
        }
        assert_eq!(&*canonical("A.b."), "a.b");
    }
}
