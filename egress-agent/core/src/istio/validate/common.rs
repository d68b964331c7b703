//! Rules that several kinds share: durations, ports, percentages, selectors, destinations, `exportTo`.

use super::check::{Check, Rule};
use super::names;
use crate::istio::duration::TimeSpan;
use crate::istio::fields::{Destination, WorkloadSelector};
use crate::istio::protocol::Protocol;
use std::collections::{BTreeMap, BTreeSet};

const NANOS_PER_MILLI: i64 = 1_000_000;

/// At least a millisecond, and whole ones.
pub fn duration(span: TimeSpan) -> Rule {
    if span.nanos() < NANOS_PER_MILLI {
        return Err("duration must be greater than 1ms".to_owned());
    }
    if span.nanos() % NANOS_PER_MILLI != 0 {
        return Err("only durations to ms precision are supported".to_owned());
    }
    Ok(())
}

/// Checks a duration that may be unset.
pub fn some_duration(check: &mut Check<'_>, key: &'static str, span: Option<TimeSpan>) {
    check.some(key, span.as_ref(), |check, span| {
        check.require(duration(*span));
    });
}

/// A duration that must be there.
pub fn required_duration(
    check: &mut Check<'_>,
    key: &'static str,
    span: Option<TimeSpan>,
    missing: &str,
) {
    match span {
        None => check.error(missing),
        Some(span) => check.at(key, |check| check.require(duration(span))),
    }
}

/// From 1 to 65535.
pub fn port(number: u32) -> Rule {
    if (1..=65535).contains(&number) {
        return Ok(());
    }
    Err(format!(
        "port number {number} must be in the range 1..65535"
    ))
}

/// A DNS label.
pub fn port_name(name: &str) -> Rule {
    if names::is_label(name) {
        Ok(())
    } else {
        Err(format!("invalid port name: {name}"))
    }
}

/// Empty, or one that Istio knows.
pub fn protocol(name: &str) -> Rule {
    if name.is_empty() || Protocol::parse(name).is_some() {
        return Ok(());
    }
    Err(format!(
        "unsupported protocol: {name} (supported: {})",
        Protocol::NAMES
    ))
}

/// From 0 to 100, whole.
pub fn percent(value: i32) -> Rule {
    if (0..=100).contains(&value) {
        return Ok(());
    }
    Err(format!("percentage {value} is not in range 0..100"))
}

/// 0, or from 0.0001 to 100.
pub fn fraction(value: f64) -> Rule {
    if !(0.0..=100.0).contains(&value) || (value > 0.0 && value < 0.0001) {
        return Err(format!(
            "percentage {} is neither 0.0, nor in range [0.0001, 100.0]",
            go_float(value)
        ));
    }
    Ok(())
}

/// A float as Go's `%v` prints it, which is with an exponent below 1e-4.
fn go_float(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-4 {
        let text = format!("{value:e}");
        return match text.split_once("e-") {
            Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
            None => text,
        };
    }
    value.to_string()
}

/// Labels of a workload or endpoint.
pub fn labels(check: &mut Check<'_>, key: &'static str, labels: &BTreeMap<String, String>) {
    check.each_entry(key, labels, |check, name, value| {
        check.require(names::label_key(name));
        check.require(names::label_value(value));
    });
}

/// Labels of a selector: no wildcards, no empty key.
fn selector_labels(
    check: &mut Check<'_>,
    key: &'static str,
    labels: &BTreeMap<String, String>,
) -> bool {
    let mut fits = true;
    check.each_entry(key, labels, |check, name, value| {
        let shown = format!("{name}={value}");
        if name.is_empty() {
            fits = false;
            check.error(format!("empty key is not supported in selector: {shown:?}"));
        }
        if name.contains('*') || value.contains('*') {
            fits = false;
            check.error(format!("wildcard is not supported in selector: {shown:?}"));
        }
    });
    fits
}

/// The selector of a `ServiceEntry` or `Sidecar`. Returns whether it can be used; if not, Istio
/// looks at nothing else.
pub fn workload_selector(
    check: &mut Check<'_>,
    kind: &str,
    selector: Option<&WorkloadSelector>,
) -> bool {
    let mut fits = true;
    check.some("workloadSelector", selector, |check, selector| {
        fits = selector_labels(check, "labels", &selector.labels);
        if fits && selector.labels.is_empty() {
            check.warn(format!(
                "{kind}: workload selector specified without labels, will be applied to all services in namespace"
            ));
        }
    });
    fits
}

/// The selector of a `DestinationRule`.
pub fn match_labels(check: &mut Check<'_>, labels: &BTreeMap<String, String>) {
    selector_labels(check, "matchLabels", labels);
    if labels.is_empty() {
        check.warn("workload selector specified without labels");
    }
}

/// A destination of a route.
pub fn destination(check: &mut Check<'_>, destination: &Destination) {
    check.at("host", |check| {
        if destination.host == "*" {
            check.error("invalid destination host *");
        } else {
            check.require(names::host(&destination.host));
        }
    });
    if !destination.subset.is_empty() {
        check.at("subset", |check| {
            check.require(subset_name(&destination.subset));
        });
    }
    check.some("port", destination.port.as_ref(), |check, selector| {
        check.at("number", |check| check.require(port(selector.number)));
    });
}

/// The name of a subset.
pub fn subset_name(name: &str) -> Rule {
    if name.is_empty() {
        return Err("subset name cannot be empty".to_owned());
    }
    if names::is_label(name) {
        Ok(())
    } else {
        Err(format!("subset name is invalid: {name}"))
    }
}

/// What an `exportTo` may hold, which differs by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exporter {
    /// May be exported to nobody (`~`).
    ServiceEntry,
    /// Must stay in its namespace.
    DestinationRuleWithSelector,
    /// Everything else.
    Other,
}

/// The namespaces that see an object.
pub fn export_to(check: &mut Check<'_>, entries: &[String], exporter: Exporter) {
    let namespace = check.object().meta.namespace.as_str();
    let mut seen = BTreeSet::new();
    check.each("exportTo", entries, |check, entry| {
        let key = if entry == "." {
            namespace
        } else {
            entry.as_str()
        };
        if seen.contains(key) {
            check.error_with(|| {
                if key == entry {
                    format!("duplicate entries in exportTo for entry {entry}")
                } else {
                    format!("duplicate entries in exportTo: . and current namespace {namespace}")
                }
            });
            return;
        }
        let rule = match key {
            "." | "*" => Ok(()),
            "~" if exporter == Exporter::ServiceEntry => Ok(()),
            "~" => {
                Err("exportTo ~ (none) is not allowed for Istio configuration objects".to_owned())
            }
            _ if names::is_label(key) => Ok(()),
            _ => Err("only .,*, or a valid DNS 1123 label is allowed as exportTo entry".to_owned()),
        };
        if rule.is_ok() {
            seen.insert(key.to_owned());
        }
        check.require(rule);
    });
    check.at("exportTo", |check| {
        if exporter == Exporter::DestinationRuleWithSelector && !seen.is_empty() {
            if !seen.contains(namespace) {
                check.error("destination rule with workload selector cannot have exportTo beyond current namespace");
            } else if seen.len() > 1 {
                check.error("destination rule with workload selector cannot have multiple entries in exportTo");
            }
        }
        if seen.contains("*") && entries.len() > 1 {
            check.error("cannot have both public (*) and non-public exportTo values for a resource");
        }
        if seen.contains("~") && entries.len() > 1 {
            check.error("cannot export service entry to no one (~) and someone");
        }
    });
}

/// Gateways by `namespace/name`, by name, or by the old `name.namespace...`.
pub fn gateway_names(check: &mut Check<'_>, gateways: &[String]) {
    let mut done = false;
    check.each("gateways", gateways, |check, gateway| {
        // Istio stops at the first name without a slash.
        if done {
            return;
        }
        let Some((namespace, name)) = gateway.split_once('/') else {
            done = true;
            let mut parts = gateway.split('.');
            if let (Some(name), Some(namespace)) = (parts.next(), parts.next()) {
                check.warn(format!(
                    "using legacy gatewayName format {gateway:?}; prefer the <namespace>/<name> format: \"{namespace}/{name}\""
                ));
            }
            check.require(names::fqdn(gateway));
            return;
        };
        if namespace.is_empty() || name.is_empty() {
            check.error("config namespace and gateway name cannot be empty");
        }
        if !names::is_label(namespace) {
            check.error(format!("invalid value for namespace: {namespace:?}"));
        }
        if !names::is_label(name) {
            check.error(format!("invalid value for gateway name: {name:?}"));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_below_the_resolution_are_refused_in_gos_spelling() {
        for (value, reason) in [
            (0.0, ""),
            (0.0001, ""),
            (100.0, ""),
            (
                0.00001,
                "percentage 1e-05 is neither 0.0, nor in range [0.0001, 100.0]",
            ),
            (
                -10.0,
                "percentage -10 is neither 0.0, nor in range [0.0001, 100.0]",
            ),
            (
                100.5,
                "percentage 100.5 is neither 0.0, nor in range [0.0001, 100.0]",
            ),
        ] {
            assert_eq!(fraction(value).err().unwrap_or_default(), reason);
        }
    }
}
