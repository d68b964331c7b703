//! Rules of `DestinationRule`: policies, subsets, tunnels, TLS and outlier detection.

use super::check::Check;
use super::common::{self, Exporter, percent, some_duration};
use super::connection_pool::connection_pool;
use super::load_balancer::load_balancer;
use super::{addresses, names};
use crate::istio::destination_rule::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, DestinationRule,
    LoadBalancerSettings, OutlierDetection, PortTrafficPolicy, Subset, TrafficPolicy,
    TunnelSettings,
};
use crate::istio::fields::MatchLabelsSelector;
use std::collections::BTreeSet;

/// Checks the spec of a `DestinationRule`.
pub fn destination_rule(check: &mut Check<'_>, rule: &DestinationRule) {
    check.at("host", |check| {
        check.require(names::host(&rule.host));
    });
    check.some(
        "trafficPolicy",
        rule.traffic_policy.as_deref(),
        traffic_policy,
    );
    let mut seen = BTreeSet::new();
    check.each("subsets", &rule.subsets, |check, part| {
        if !seen.insert(part.name.clone()) {
            check.at("name", |check| {
                check.error(format!("duplicate subset names: {}", part.name));
            });
        }
        check.errors_only(|check| subset(check, part));
    });
    clients(check, &rule.export_to, rule.workload_selector.as_ref());
}

/// The namespaces that see it, and the workloads there that it is for.
pub fn clients(
    check: &mut Check<'_>,
    export_to: &[String],
    selector: Option<&MatchLabelsSelector>,
) {
    let exporter = if selector.is_some() {
        Exporter::DestinationRuleWithSelector
    } else {
        Exporter::Other
    };
    common::export_to(check, export_to, exporter);
    check.some("workloadSelector", selector, |check, selector| {
        common::match_labels(check, &selector.match_labels);
    });
}

fn subset(check: &mut Check<'_>, subset: &Subset) {
    check.at("name", |check| {
        check.require(common::subset_name(&subset.name));
    });
    common::labels(check, "labels", &subset.labels);
    check.some(
        "trafficPolicy",
        subset.traffic_policy.as_deref(),
        traffic_policy,
    );
}

fn traffic_policy(check: &mut Check<'_>, policy: &TrafficPolicy) {
    let is_empty = policy.outlier_detection.is_none()
        && policy.connection_pool.is_none()
        && policy.load_balancer.is_none()
        && policy.tls.is_none()
        && policy.port_level_settings.is_empty()
        && policy.tunnel.is_none()
        && policy.proxy_protocol.is_none()
        && policy.retry_budget.is_none();
    if is_empty {
        check.error("traffic policy must have at least one field");
        return;
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        check.error("tunnel and proxyProtocol must not be set together");
        return;
    }
    shared_settings(
        check,
        policy.outlier_detection.as_ref(),
        policy.connection_pool.as_ref(),
        policy.load_balancer.as_ref(),
        policy.tls.as_ref(),
    );
    check.errors_only(|check| {
        check.each(
            "portLevelSettings",
            &policy.port_level_settings,
            port_policy,
        );
    });
    check.some("tunnel", policy.tunnel.as_ref(), tunnel);
}

fn port_policy(check: &mut Check<'_>, policy: &PortTrafficPolicy) {
    if policy.port.is_none() {
        check.error("portTrafficPolicy must have valid port");
    }
    let is_empty = policy.outlier_detection.is_none()
        && policy.connection_pool.is_none()
        && policy.load_balancer.is_none()
        && policy.tls.is_none();
    if is_empty {
        check.error("port traffic policy must have at least one field");
        return;
    }
    shared_settings(
        check,
        policy.outlier_detection.as_ref(),
        policy.connection_pool.as_ref(),
        policy.load_balancer.as_ref(),
        policy.tls.as_ref(),
    );
}

/// What a policy for all ports and one for a single port both have.
fn shared_settings(
    check: &mut Check<'_>,
    outliers: Option<&OutlierDetection>,
    pool: Option<&ConnectionPoolSettings>,
    balancer: Option<&LoadBalancerSettings>,
    tls: Option<&ClientTlsSettings>,
) {
    check.some("outlierDetection", outliers, outlier_detection);
    check.some("connectionPool", pool, connection_pool);
    check.some("loadBalancer", balancer, |check, settings| {
        load_balancer(check, settings, outliers.is_some());
    });
    check.some("tls", tls, client_tls);
}

fn tunnel(check: &mut Check<'_>, tunnel: &TunnelSettings) {
    if !["", "CONNECT", "POST"].contains(&tunnel.protocol.as_str()) {
        check.at("protocol", |check| {
            check.error("tunnel protocol must be \"CONNECT\" or \"POST\"");
        });
    }
    check.at("targetHost", |check| {
        if let (Err(name), Err(address)) = (
            names::fqdn(&tunnel.target_host),
            addresses::ip(&tunnel.target_host),
        ) {
            check.error(format!(
                "tunnel target host must be valid FQDN or IP address: {name}; {address}"
            ));
        }
    });
    check.at("targetPort", |check| {
        if let Err(reason) = common::port(tunnel.target_port) {
            check.error(format!("tunnel target port is invalid: {reason}"));
        }
    });
}

fn outlier_detection(check: &mut Check<'_>, outlier: &OutlierDetection) {
    some_duration(check, "baseEjectionTime", outlier.base_ejection_time);
    if outlier.consecutive_errors != 0 {
        check.at("consecutiveErrors", |check| {
            check.warn(
                "outlier detection consecutive errors is deprecated, use consecutiveGatewayErrors or consecutive5xxErrors instead",
            );
        });
    }
    if !outlier.split_external_local_origin_errors
        && outlier.consecutive_local_origin_failures.unwrap_or(0) > 0
    {
        check.at("consecutiveLocalOriginFailures", |check| {
            check.error(
                "outlier detection consecutive local origin failures is specified, but split external local origin errors is set to false",
            );
        });
    }
    some_duration(check, "interval", outlier.interval);
    check.at("maxEjectionPercent", |check| {
        check.require(percent(outlier.max_ejection_percent));
    });
    check.at("minHealthPercent", |check| {
        check.require(percent(outlier.min_health_percent));
    });
}

fn client_tls(check: &mut Check<'_>, tls: &ClientTlsSettings) {
    config_map_namespace(check, tls);
    let has_names = !tls.subject_alt_names.is_empty();
    if tls.insecure_skip_verify == Some(true) {
        if tls.mode == ClientTlsMode::Simple
            && (!tls.ca_certificates.is_empty() || !tls.credential_name.is_empty() || has_names)
        {
            check.error(
                "cannot specify CaCertificates or CredentialName or SubjectAltNames when InsecureSkipVerify is set true",
            );
        }
        if tls.mode == ClientTlsMode::Mutual && (!tls.ca_certificates.is_empty() || has_names) {
            check.error("cannot specify CaCertificates or SubjectAltNames when InsecureSkipVerify is set true");
        }
    }
    if matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual)
        && !tls.credential_name.is_empty()
    {
        let files = [
            &tls.client_certificate,
            &tls.ca_certificates,
            &tls.private_key,
            &tls.ca_crl,
        ];
        if files.iter().any(|file| !file.is_empty()) {
            check.at("credentialName", |check| {
                check.error("cannot specify client certificates or CA certificate or CA CRL If credentialName is set");
            });
        }
        return;
    }
    if tls.mode == ClientTlsMode::Mutual {
        if tls.client_certificate.is_empty() {
            check.error("client certificate required for mutual tls");
        }
        if tls.private_key.is_empty() {
            check.error("private key required for mutual tls");
        }
    }
}

/// A `configmap://[namespace/]name` credential must be of the rule's own namespace.
fn config_map_namespace(check: &mut Check<'_>, tls: &ClientTlsSettings) {
    let Some(name) = tls.credential_name.strip_prefix("configmap://") else {
        return;
    };
    let own = check.object().meta.namespace.as_str();
    let reason = match name.split_once('/') {
        None if name.is_empty() => Some("name is empty".to_owned()),
        None => None,
        Some((namespace, _)) if namespace == own => None,
        Some(_) => Some(format!(
            "namespace must match the configuration namespace {own:?}"
        )),
    };
    if let Some(reason) = reason {
        check.at("credentialName", |check| {
            check.error(format!("invalid configmap:// credentialName: {reason}"));
        });
    }
}
