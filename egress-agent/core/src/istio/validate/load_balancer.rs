//! Rules of load balancing: hashes, localities, warmup.

use super::check::{Check, Rule};
use super::common::required_duration;
use crate::istio::destination_rule::{
    ConsistentHashLb, Distribute, Failover, HttpCookie, LoadBalancerSettings,
    LocalityLoadBalancerSetting, MagLev, WarmupConfiguration,
};
use std::collections::{BTreeMap, BTreeSet};

/// Envoy's limit of a Maglev table.
const MAGLEV_LIMIT: u64 = 5_000_011;
const TOPOLOGY_LABELS: [&str; 3] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
];

/// Checks load balancing. Failover needs outlier detection to notice that a region fails.
pub fn load_balancer(
    check: &mut Check<'_>,
    settings: &LoadBalancerSettings,
    detects_outliers: bool,
) {
    check.some(
        "consistentHash",
        settings.consistent_hash.as_ref(),
        consistent_hash,
    );
    if settings.locality_lb_setting.is_some() && settings.zone_aware_lb_setting.is_some() {
        check.error("only one of localityLbSetting and zoneAwareLbSetting can be set");
    }
    check.some(
        "localityLbSetting",
        settings.locality_lb_setting.as_ref(),
        |check, locality| {
            locality_setting(check, locality, detects_outliers);
        },
    );
    check.some(
        "zoneAwareLbSetting",
        settings.zone_aware_lb_setting.as_ref(),
        |check, zone| {
            if topology_conflict(check, &zone.failover, &zone.failover_priority) {
                return;
            }
            failover(
                check,
                &zone.failover,
                &zone.failover_priority,
                detects_outliers,
            );
        },
    );
    check.some("warmup", settings.warmup.as_ref(), warmup);
}

fn consistent_hash(check: &mut Check<'_>, hash: &ConsistentHashLb) {
    check.some("httpCookie", hash.http_cookie.as_ref(), cookie);
    if hash.minimum_ring_size != 0 {
        check.at("minimumRingSize", |check| {
            check.warn("consistent hash MinimumRingSize is deprecated, use ConsistentHashLB's RingHash configuration instead");
            if hash.ring_hash.is_some() || hash.maglev.is_some() {
                check.error("only one of MinimumRingSize or Maglev/Ringhash can be specified");
            }
        });
    }
    check.some("maglev", hash.maglev.as_ref(), |check, table| {
        check.at("tableSize", |check| maglev(check, table));
    });
}

fn cookie(check: &mut Check<'_>, cookie: &HttpCookie) {
    if cookie.name.is_empty() {
        check.error("name required for HttpCookie");
    }
    let mut seen = BTreeSet::new();
    check.each("attributes", &cookie.attributes, |check, attribute| {
        if attribute.name.is_empty() {
            check.error("cookie attribute name cannot be empty");
        } else if !seen.insert(attribute.name.clone()) {
            check.error(format!(
                "duplicate cookie attribute name: {}",
                attribute.name
            ));
        }
    });
}

fn maglev(check: &mut Check<'_>, table: &MagLev) {
    if table.table_size == 0 {
        check.error("tableSize must be set for maglev");
    }
    if table.table_size >= MAGLEV_LIMIT {
        check.error("tableSize must be less than 5000011 for maglev");
    }
    if !is_prime(table.table_size) {
        check.error("tableSize must be a prime number for maglev");
    }
}

/// Whether a number is prime, with 1 taken for one as Envoy takes it. Numbers far above the limit,
/// which are rejected anyway, are not tried.
fn is_prime(number: u64) -> bool {
    if number < 4 {
        return number != 0;
    }
    if number.is_multiple_of(2) {
        return false;
    }
    (3..)
        .step_by(2)
        .take_while(|factor| factor * factor <= number.min(MAGLEV_LIMIT))
        .all(|factor| !number.is_multiple_of(factor))
}

fn warmup(check: &mut Check<'_>, warmup: &WarmupConfiguration) {
    required_duration(check, "duration", warmup.duration, "duration is required");
    if warmup.minimum_percent.is_some_and(|value| value > 100.0) {
        check.at("minimumPercent", |check| {
            check.error("minimumPercent value should be less than or equal to 100");
        });
    }
    if warmup.aggression.is_some_and(|value| value <= 0.0) {
        check.at("aggression", |check| {
            check.error("aggression should be greater than 0");
        });
    }
}

fn locality_setting(
    check: &mut Check<'_>,
    locality: &LocalityLoadBalancerSetting,
    detects_outliers: bool,
) {
    if !locality.distribute.is_empty() && !locality.failover.is_empty() {
        check.error("can not simultaneously specify 'distribute' and 'failover'");
        return;
    }
    if topology_conflict(check, &locality.failover, &locality.failover_priority)
        || !distribute(check, &locality.distribute)
    {
        return;
    }
    failover(
        check,
        &locality.failover,
        &locality.failover_priority,
        detects_outliers,
    );
}

fn topology_conflict(check: &mut Check<'_>, failover: &[Failover], priority: &[String]) -> bool {
    let label = priority
        .iter()
        .find(|label| TOPOLOGY_LABELS.contains(&label.as_str()));
    if let (Some(label), false) = (label, failover.is_empty()) {
        check.at("failoverPriority", |check| {
            check.error(format!(
                "can not simultaneously set 'failover' and topology label '{label}' in 'failover_priority'"
            ));
        });
        return true;
    }
    false
}

fn failover(
    check: &mut Check<'_>,
    regions: &[Failover],
    priority: &[String],
    detects_outliers: bool,
) {
    if (!regions.is_empty() || !priority.is_empty()) && !detects_outliers {
        check.warn("outlier detection policy must be provided for failover");
    }
    check.each("failover", regions, |check, failover| {
        if failover.from == failover.to {
            check.error("locality lb failover settings must specify different regions");
        }
        if failover.from.contains('/') || failover.to.contains('/') {
            check.error("locality lb failover only specify region");
        }
        if failover.from.contains('*') || failover.to.contains('*') {
            check.error("locality lb failover region should not contain '*' wildcard");
        }
    });
}

/// Returns whether all weights fit; if not, Istio looks at nothing else.
fn distribute(check: &mut Check<'_>, distribute: &[Distribute]) -> bool {
    let mut fits = true;
    check.each("distribute", distribute, |check, shares| {
        if !fits {
            return;
        }
        check.at("to", |check| {
            let total: u64 = shares.to.values().copied().map(u64::from).sum();
            let reason = if shares.to.values().any(|weight| !(1..=100).contains(weight)) {
                "locality weight must be in range [1, 100]".to_owned()
            } else if total != 100 {
                format!("total locality weight {total} != 100")
            } else {
                check.require(localities(shares.to.keys().map(String::as_str)));
                return;
            };
            fits = false;
            check.error(reason);
        });
    });
    if fits {
        check.at("distribute", |check| {
            check.require(localities(
                distribute.iter().map(|shares| shares.from.as_str()),
            ));
        });
    }
    fits
}

/// What is covered below a region or zone: all of it, or parts by name.
#[derive(Default)]
struct Covered<'l> {
    all: bool,
    parts: BTreeMap<&'l str, Covered<'l>>,
}

/// Localities (`region/zone/subzone`, `*` at the end) of which none covers another that follows it.
fn localities<'l>(list: impl Iterator<Item = &'l str>) -> Rule {
    let mut covered = Covered::default();
    for locality in list {
        let stars = locality.matches('*').count();
        if stars > 1 || (stars == 1 && !locality.ends_with('*')) {
            return Err(format!(
                "locality {locality} wildcard '*' number can not exceed 1 and must be in the end"
            ));
        }
        let overlap = || {
            Err(format!(
                "locality {locality} overlap with previous specified ones"
            ))
        };
        if covered.parts.contains_key("*") {
            return overlap();
        }
        if locality.splitn(3, '/').any(str::is_empty) {
            return Err(format!(
                "locality {locality} must not contain empty region/zone/subzone info"
            ));
        }
        let mut level = &mut covered;
        let mut is_new = false;
        for part in locality.splitn(3, '/') {
            if level.all || level.parts.contains_key("*") {
                return overlap();
            }
            is_new = !level.parts.contains_key(part);
            level = level.parts.entry(part).or_default();
        }
        if !is_new {
            return overlap();
        }
        level.all = true;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locality_may_not_be_covered_by_an_earlier_one() {
        for (list, reason) in [
            (vec!["a/b/c", "a/b/d", "a/c", "b"], ""),
            (vec!["a/b/*", "a/c/*"], ""),
            (
                vec!["*", "a"],
                "locality a overlap with previous specified ones",
            ),
            (
                vec!["a", "a/b"],
                "locality a/b overlap with previous specified ones",
            ),
            (
                vec!["a/b", "a"],
                "locality a overlap with previous specified ones",
            ),
            (
                vec!["a/*", "a/b"],
                "locality a/b overlap with previous specified ones",
            ),
            (
                vec!["a/b/*", "a/b/c"],
                "locality a/b/c overlap with previous specified ones",
            ),
            (
                vec!["a/*/b"],
                "locality a/*/b wildcard '*' number can not exceed 1 and must be in the end",
            ),
            (
                vec!["a//b"],
                "locality a//b must not contain empty region/zone/subzone info",
            ),
        ] {
            assert_eq!(
                localities(list.iter().copied()).err().unwrap_or_default(),
                reason,
                "{list:?}"
            );
        }
    }

    #[test]
    fn primes_are_told_as_envoy_tells_them() {
        for (number, prime) in [
            (0, false),
            (1, true),
            (2, true),
            (4, false),
            (9, false),
            (65_537, true),
            (u64::MAX, false),
        ] {
            assert_eq!(is_prime(number), prime, "{number}");
        }
    }
}
