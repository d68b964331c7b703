//! Names: DNS labels and domains, with and without wildcards, and Kubernetes labels.

use super::addresses::subnet;
use super::check::Rule;

/// Longest DNS label, and longest name part of a Kubernetes label (RFC 1123).
const MAX_LABEL: usize = 63;
/// Longest domain name that Istio takes.
const MAX_DOMAIN: usize = 255;
/// Longest prefix of a Kubernetes label key.
const MAX_KEY_PREFIX: usize = 253;

/// A DNS label in any case: letters, digits and inner hyphens.
pub fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL && is_label_of_any_length(text)
}

fn is_label_of_any_length(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// `*`, a label, or a label after `*` or `*-`.
fn is_wildcard_label(text: &str) -> bool {
    if text.len() > MAX_LABEL {
        return false;
    }
    match text.strip_prefix('*') {
        Some("") => true,
        Some(rest) => is_label(rest.strip_prefix('-').unwrap_or(rest)),
        None => is_label(text),
    }
}

fn length(domain: &str) -> Rule {
    if domain.len() > MAX_DOMAIN {
        return Err(format!("domain name {domain:?} too long (max 255)"));
    }
    if domain.is_empty() {
        return Err("empty domain name not allowed".to_owned());
    }
    Ok(())
}

fn labels(domain: &str) -> Rule {
    let last = domain.rsplit('.').next().unwrap_or(domain);
    let digits = last.strip_prefix(['+', '-']).unwrap_or(last);
    if !digits.is_empty() && digits.len() < 19 && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            "domain name {domain:?} invalid (top level domain {last:?} cannot be all-numeric)"
        ));
    }
    let count = domain.split('.').count();
    for (index, label) in domain.split('.').enumerate() {
        // A trailing dot marks an absolute name.
        let is_root = label.is_empty() && index + 1 == count;
        if !is_root && !is_label(label) {
            return Err(format!(
                "domain name {domain:?} invalid (label {label:?} invalid)"
            ));
        }
    }
    Ok(())
}

/// A domain name without wildcards.
pub fn fqdn(domain: &str) -> Rule {
    length(domain)?;
    labels(domain)
}

/// A domain name whose first label may be a wildcard.
pub fn wildcard_domain(domain: &str) -> Rule {
    length(domain)?;
    let (first, rest) = domain
        .split_once('.')
        .map_or((domain, None), |(first, rest)| (first, Some(rest)));
    if !is_wildcard_label(first) {
        return Err(format!(
            "domain name {domain:?} invalid (label {first:?} invalid)"
        ));
    }
    rest.map_or(Ok(()), labels)
}

/// What to do about an address in the place of a host.
pub const ADDRESS_HINT: &str =
    "; it is an address, and hosts are names: put addresses in spec.addresses";

/// As [`wildcard_domain`]; of an address or network it says where that belongs.
pub fn host(host: &str) -> Rule {
    wildcard_domain(host).map_err(|reason| {
        if subnet(host).is_ok() {
            reason + ADDRESS_HINT
        } else {
            reason
        }
    })
}

/// As [`wildcard_domain`]; for a `VirtualService` bound to gateways, names such as
/// `outbound_.80_._.host` that `AUTO_PASSTHROUGH` gateways make are allowed too if SNI is matched.
pub fn gateway_domain(sni: bool, domain: &str) -> Rule {
    const FORMAT: &str = "outbound_.<PORT>_._.<HOSTNAME>";
    length(domain)?;
    if !sni || !domain.starts_with("outbound_") {
        return wildcard_domain(domain);
    }
    let parts: Vec<&str> = domain.split('_').collect();
    let [_, port, _, host, ..] = parts.as_slice() else {
        return Err(format!(
            "domain name {domain} invalid, should follow '{FORMAT}' format"
        ));
    };
    let (port, host) = (port.trim_matches('.'), host.trim_matches('.'));
    let wrong = |label: &str| {
        Err(format!(
            "domain name {domain:?} invalid (label {label:?} invalid). should follow {FORMAT} format"
        ))
    };
    if !port.bytes().any(|b| b.is_ascii_digit()) {
        return wrong(port);
    }
    if !host.bytes().any(|b| b.is_ascii_alphabetic()) {
        return wrong(host);
    }
    Ok(())
}

/// Wildcards other than a whole first label, as in `*-a.com`.
pub fn partial_wildcard(host: &str) -> Rule {
    if host.contains('*') && host.len() != 1 && !host.starts_with("*.") {
        return Err(format!("partial wildcard {host:?} not allowed"));
    }
    Ok(())
}

/// Letters, digits and inner `-`, `_`, `.`, as Kubernetes defines it for label names and values.
fn is_qualified_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// A key of a Kubernetes label: a name, maybe after a domain and a slash.
pub fn label_key(key: &str) -> Rule {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if !is_qualified_name(name)
        || prefix.is_some_and(|prefix| !prefix.split('.').all(is_label_of_any_length))
    {
        return Err(format!("invalid tag key: {key:?}"));
    }
    if prefix.is_some_and(|prefix| prefix.len() > MAX_KEY_PREFIX) {
        return Err(format!("invalid tag key: {key:?} (DNS prefix is too long)"));
    }
    if name.len() > MAX_LABEL {
        return Err(format!("invalid tag key: {key:?} (name is too long)"));
    }
    Ok(())
}

/// A value of a Kubernetes label; may be empty.
pub fn label_value(value: &str) -> Rule {
    if !value.is_empty() && !is_qualified_name(value) {
        return Err(format!("invalid tag value: {value:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_judged_as_istio_judges_them() {
        let reason = |rule: Rule| rule.err().unwrap_or_default();
        for (domain, exact, wildcard) in [
            ("example.com", "", ""),
            ("EXAMPLE.com.", "", ""),
            ("single", "", ""),
            (
                "*.a.com",
                "domain name \"*.a.com\" invalid (label \"*\" invalid)",
                "",
            ),
            (
                "*a.com",
                "domain name \"*a.com\" invalid (label \"*a\" invalid)",
                "",
            ),
            (
                "*-a.com",
                "domain name \"*-a.com\" invalid (label \"*-a\" invalid)",
                "",
            ),
            ("*", "domain name \"*\" invalid (label \"*\" invalid)", ""),
            (
                "",
                "empty domain name not allowed",
                "empty domain name not allowed",
            ),
            (
                "1.2.3.4",
                "domain name \"1.2.3.4\" invalid (top level domain \"4\" cannot be all-numeric)",
                "domain name \"2.3.4\" invalid (top level domain \"4\" cannot be all-numeric)",
            ),
            (
                "a..b",
                "domain name \"a..b\" invalid (label \"\" invalid)",
                "domain name \".b\" invalid (label \"\" invalid)",
            ),
        ] {
            assert_eq!(reason(fqdn(domain)), exact, "{domain}");
            assert_eq!(reason(wildcard_domain(domain)), wildcard, "{domain}");
        }
    }

    #[test]
    fn an_address_as_a_host_is_told_where_addresses_belong() {
        for (text, is_address) in [
            ("169.254.169.254", true),
            ("10.0.0.0/8", true),
            ("2001:db8::1", true),
            ("2001:db8::/32", true),
            ("10.0.0.256", false),
            ("a_b.com", false),
        ] {
            let reason = host(text).err().unwrap_or_default();
            assert!(!reason.is_empty(), "{text}");
            assert_eq!(
                reason.ends_with(ADDRESS_HINT),
                is_address,
                "{text}: {reason}"
            );
        }
        assert_eq!(host("*.example.com"), Ok(()));
    }

    #[test]
    fn label_keys_may_have_a_domain_before_the_name() {
        for (key, fits) in [
            ("app", true),
            ("app.kubernetes.io/name", true),
            ("a_b.c-d", true),
            ("", false),
            ("-a", false),
            ("a/b/c", false),
            ("/a", false),
            ("a b", false),
        ] {
            assert_eq!(label_key(key).is_ok(), fits, "{key}");
        }
    }
}
