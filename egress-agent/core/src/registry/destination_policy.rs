//! `DestinationRule`s: which ones apply to a destination, the subsets they define, and the policy
//! that they give to its cluster.
//!
//! Source of the choice: istio `pilot/pkg/model/push_context.go` `destinationRule`. `traffic`
//! merges the policies.

use super::Registry;
use super::not_done::table::{serves_nothing, traffic_policy};
use super::plan::Context;
use super::scope::Scope;
use super::services::Service;
use crate::istio::destination_rule::DestinationRule;
use crate::istio::{CredentialKind, CredentialName, Object, Spec, hosts};
use crate::traffic::{ClusterPolicy, MergedPolicy};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Registry {
    /// The `DestinationRule`s that apply to a host, oldest first: those for its most specific pattern. Rules of the
    /// client's namespace come first, then those of the service's namespace (`of`), then those of the root namespace. Rules of
    /// other namespaces do not apply.
    fn destination_rules_for(
        &self,
        host: &str,
        of: &str,
        scope: &Scope,
    ) -> Vec<(&Arc<Object>, &DestinationRule)> {
        let mut found: Vec<(Cow<'_, str>, &Arc<Object>, &DestinationRule)> = Vec::new();
        if self.destination_rules.is_empty() {
            return Vec::new();
        }
        for pattern in hosts::patterns(host) {
            let rules = self.destination_rules.get(&*pattern);
            for object in rules.into_iter().flatten() {
                if let Some(Spec::DestinationRule(spec)) = &object.spec
                    && scope.sees(&spec.export_to, &object.meta.namespace)
                    && scope.selected_by(spec, &object.meta.namespace)
                {
                    found.push((pattern.clone(), object, spec));
                }
            }
        }
        let places = [scope.namespace(), of, &*self.root_namespace];
        let in_place = |n: &str| found.iter().find(|(_, o, _)| o.meta.namespace == n);
        let chosen = places
            .into_iter()
            .filter(|n| !n.is_empty())
            .find_map(in_place)
            // A check of the rules themselves is for clients of every namespace.
            .or_else(|| found.first().filter(|_| scope.all));
        let Some((pattern, first, _)) = chosen else {
            return Vec::new();
        };
        let same = |(p, o, _): &&(Cow<'_, str>, &Arc<Object>, &DestinationRule)| {
            p == pattern && o.meta.namespace == first.meta.namespace
        };
        let same = found.iter().filter(same).map(|(_, o, s)| (*o, *s));
        let mut rules: Vec<_> = same.collect();
        alone(&mut rules, scope);
        rules
    }

    /// A subset of a host: the labels of its endpoints. Several rules for one host define their
    /// subsets together.
    pub(crate) fn subset(
        &self,
        host: &str,
        of: &str,
        name: &str,
        scope: &Scope,
    ) -> Option<Arc<BTreeMap<String, String>>> {
        let rules = self.destination_rules_for(host, of, scope);
        let mut subsets = rules.iter().flat_map(|(_, rule)| &rule.subsets);
        let subset = subsets.find(|s| s.name == name)?;
        Some(Arc::new(subset.labels.clone()))
    }
}

/// Leaves the rules that select the workload, if one does: they are not merged with those for all workloads. Of several
/// selectors the oldest counts (istio `pilot/pkg/model/sidecar.go`, `SidecarScope.DestinationRule`). Nobody knows which
/// workloads an invalid rule would select, so it always stays.
fn alone(rules: &mut Vec<(&Arc<Object>, &DestinationRule)>, scope: &Scope) {
    // A check of the rules themselves is for all workloads.
    if scope.all {
        return;
    }
    let selector = |(object, rule): &(&Arc<Object>, &DestinationRule)| {
        let selector = rule.workload_selector.as_ref();
        let own = selector.filter(|_| scope.is_in(&object.meta.namespace));
        own.map(|selector| selector.match_labels.clone())
    };
    let mut valid = rules.iter().filter(|(object, _)| object.denied.is_none());
    let oldest = valid.find_map(selector);
    rules.retain(|rule| rule.0.denied.is_some() || selector(rule) == oldest);
}

/// The policy of a destination. It denies everything if a traffic policy that applies has a protecting field that is
/// not carried out.
pub(super) fn policy(
    host: &str,
    subset: Option<&str>,
    port: u16,
    service: &Service,
    context: &Context<'_>,
) -> ClusterPolicy {
    let of = service.entries.first();
    let of = of.map_or("", |e| e.object.meta.namespace.as_str());
    let rules = context
        .registry
        .destination_rules_for(host, of, context.scope);
    // Each rule is checked by itself: of several for one host, Istio takes the first policy that it finds, in an order
    // that a file does not show.
    let mut merged: Option<MergedPolicy<'_>> = None;
    let mut secret = None;
    for (object, rule) in rules {
        if let Some(why) = &object.denied {
            return ClusterPolicy::clone(&ClusterPolicy::denying(why));
        }
        let mut policy = MergedPolicy::default();
        if let Some(own) = &rule.traffic_policy {
            policy = policy.under(own, port);
        }
        let mut of_subset = rule
            .subsets
            .iter()
            .filter(|s| Some(s.name.as_str()) == subset);
        let of_subset = of_subset.find_map(|s| s.traffic_policy.as_deref());
        if let Some(own) = of_subset {
            policy = policy.under(own, port);
        }
        if let Some(field) = serves_nothing(&traffic_policy(), &policy) {
            let why = not_carried_out(&format!("trafficPolicy.{field}"), object);
            return ClusterPolicy::clone(&ClusterPolicy::denying(&why));
        }
        if let Some(name) = policy.credential_name() {
            match secret_of(name, object, context.scope) {
                Ok(of_rule) => secret = secret.or(Some(of_rule)),
                Err(why) => return ClusterPolicy::clone(&ClusterPolicy::denying(&why)),
            }
        }
        merged = Some(merged.map_or(policy, |first| first.or(policy)));
    }
    let entries = service.entries.iter().filter_map(|e| e.entry());
    let names: Vec<String> = entries
        .flat_map(|entry| entry.subject_alt_names.iter().cloned())
        .collect();
    let merged = merged.unwrap_or_default();
    let secret = secret.filter(|_| merged.credential_name().is_some());
    ClusterPolicy::new(&merged, &names, secret.as_ref())
}

/// What a rule's `credentialName` names: a Secret of the rule's namespace, for workloads of that namespace, or a ConfigMap
/// of the rule's namespace. Istio has a sidecar look for a Secret in its own namespace, and only if the rule selects
/// workloads, which are of the rule's namespace.
fn secret_of(name: &str, object: &Object, scope: &Scope) -> Result<CredentialName, Arc<str>> {
    let namespace = &object.meta.namespace;
    let field = "trafficPolicy.tls.credentialName";
    let at = || format!("{field} of {object} ({})", object.place());
    let Some(named) = CredentialName::of_rule(name, namespace) else {
        let why = "names no Secret and no ConfigMap of the rule's namespace";
        return Err(format!("{} {why}", at()).into());
    };
    if named.kind == CredentialKind::Secret && !scope.is_in(namespace) {
        let why = "names a Secret that only workloads of the same namespace may use";
        return Err(format!("{} {why}", at()).into());
    }
    Ok(named)
}

/// The reason that a log line, `explain` and the proxy give.
pub(super) fn not_carried_out(field: &str, object: &Object) -> Arc<str> {
    let at = object.place();
    format!("{field} of {object} ({at}) is not carried out, so it serves nothing").into()
}
