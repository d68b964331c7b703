//! The service whose host is most similar to an unlisted host.

use super::words::rule_of;
use crate::istio::edits::edits;
use crate::istio::hosts;
use crate::policy::naming::ports;
use crate::registry::view::View;
use std::sync::Arc;

/// The most edits of a typing error.
const TYPO: usize = 2;

/// One line about it: a typing error, a host of the same domain, or a wildcard that covers it.
pub(super) fn nearest_host(view: &View, host: &str, port: u16) -> Option<String> {
    let suffix = host.split_once('.').map(|(_, rest)| rest);
    let alike = |listed: &str| {
        let bare = listed.trim_start_matches('*').trim_start_matches('.');
        if bare == host {
            return Some(0);
        }
        let typo = edits(listed, host, TYPO).is_some();
        let sibling = suffix.is_some_and(|s| s.contains('.') && bare.ends_with(s));
        typo.then_some(1).or_else(|| sibling.then_some(2))
    };
    let found = view
        .services
        .values()
        .filter_map(|s| Some((alike(&s.host)?, s)));
    let (_, service) =
        found.min_by_key(|(rank, s)| (*rank, s.class(port).is_none(), Arc::clone(&s.host)))?;
    let apex = if hosts::is_wildcard(&service.host) {
        " (which is not the name itself)"
    } else {
        ""
    };
    Some(format!(
        "nearest: {} lists {}{apex}, {}",
        rule_of(service, None),
        service.host,
        ports(service)
    ))
}
