//! HTTPS and SVCB records (RFC 9460) as clients get them: without encrypted hellos, whose name nobody could check,
//! and without addresses that have no lease.

use super::listing::Listing;
use crate::registry::services::{Class, Service};
use hickory_proto::rr::rdata::svcb::{Alpn, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{HTTPS, SVCB};
use hickory_proto::rr::{Name, RData};
use std::sync::Arc;

/// The port of a record without one.
const HTTPS_PORT: u16 = 443;

/// The record without what clients may not have; `None` if nothing useful is left. `owner` is its name, and `services`
/// list the name that was asked for.
pub(super) fn stripped(
    listing: Listing<'_>,
    services: &[Arc<Service>],
    owner: &Name,
    data: &RData,
) -> Option<RData> {
    match data {
        RData::HTTPS(HTTPS(binding)) => {
            let own = strip(listing, services, owner, binding)?;
            Some(RData::HTTPS(HTTPS(own)))
        }
        RData::SVCB(binding) => strip(listing, services, owner, binding).map(RData::SVCB),
        _ => None,
    }
}

fn strip(
    listing: Listing<'_>,
    services: &[Arc<Service>],
    owner: &Name,
    binding: &SVCB,
) -> Option<SVCB> {
    let target = &binding.target_name;
    // A client would ask for the target next.
    let listed = || {
        let name = target.to_ascii().to_ascii_lowercase();
        listing.lists(name.trim_end_matches('.'))
    };
    if !target.is_root() && !target.eq_ignore_root(owner) && !listed() {
        return None;
    }
    // Priority 0 is an alias, which has no parameters.
    if binding.svc_priority == 0 {
        let alias = SVCB::new(0, target.clone(), Vec::new());
        return (!target.is_root()).then_some(alias);
    }
    let port = binding
        .svc_params
        .iter()
        .find_map(|(_, value)| match value {
            SvcParamValue::Port(port) => Some(*port),
            _ => None,
        });
    let number = port.unwrap_or(HTTPS_PORT);
    let has = |udp: bool| {
        let class = services.iter().find_map(|s| s.class(number));
        class.is_some_and(|class| (class == Class::Udp) == udp)
    };
    if port.is_some() && !has(false) && !has(true) {
        return None;
    }
    let mut params = Vec::new();
    for (key, value) in &binding.svc_params {
        match value {
            SvcParamValue::Alpn(Alpn(protocols)) => {
                // HTTP/3 is UDP.
                let usable = |p: &&String| !p.starts_with("h3") || has(true);
                let usable: Vec<_> = protocols.iter().filter(usable).cloned().collect();
                if !usable.is_empty() {
                    params.push((*key, SvcParamValue::Alpn(Alpn(usable))));
                }
            }
            SvcParamValue::NoDefaultAlpn | SvcParamValue::Port(_) => {
                params.push((*key, value.clone()));
            }
            // Without its keys, a record that makes them mandatory is of no use.
            SvcParamValue::Mandatory(mandatory) => {
                let kept = [
                    SvcParamKey::Alpn,
                    SvcParamKey::NoDefaultAlpn,
                    SvcParamKey::Port,
                ];
                if !mandatory.0.iter().all(|key| kept.contains(key)) {
                    return None;
                }
                params.push((*key, value.clone()));
            }
            _ => {}
        }
    }
    let has_key = |wanted: SvcParamKey| params.iter().any(|(key, _)| *key == wanted);
    // `no-default-alpn` needs an `alpn` (RFC 9460 §7.1.1), and so does a record that makes it mandatory.
    let lost_alpn = !has_key(SvcParamKey::Alpn)
        && binding
            .svc_params
            .iter()
            .any(|(key, _)| *key == SvcParamKey::Alpn);
    let needs_alpn = has_key(SvcParamKey::NoDefaultAlpn) || has_key(SvcParamKey::Mandatory);
    if lost_alpn && needs_alpn {
        return None;
    }
    Some(SVCB::new(binding.svc_priority, target.clone(), params))
}

#[cfg(test)]
#[path = "service_binding_tests.rs"]
mod tests;
