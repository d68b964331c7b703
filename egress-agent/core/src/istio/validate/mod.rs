//! Validation of single objects, with the verdicts and reasons of Istio's own validator.
//!
//! Source of the rules: istio `pkg/config/validation/{validation,virtualservice}.go` and
//! `agent/validation.go`. Does not look at objects together; `registry::lint` does.

mod addresses;
mod check;
mod common;
mod connection_pool;
mod destination_rule;
mod headers;
mod hosts;
mod http_actions;
mod http_match;
mod http_route;
mod l4_route;
mod load_balancer;
mod names;
pub(crate) mod regex;
mod server_tls;
mod service_entry;
mod sidecar;
mod unreachable;
mod virtual_service;
mod workload_entry;

pub(crate) use names::ADDRESS_HINT;

use super::decode::node::Node;
use super::decode::{Object, Spec, mended};
use super::fields::MatchLabelsSelector;
use super::message::{Message, Severity};
use check::Check;

/// What Istio's validator says of an object as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Loaded.
    Valid,
    /// Loaded, with something to look at.
    Warning,
    /// Refused.
    Invalid,
}

impl Verdict {
    /// The verdict that these messages amount to.
    pub fn of(messages: &[Message]) -> Self {
        match messages.iter().map(|message| message.severity).max() {
            Some(Severity::Error) => Self::Invalid,
            Some(Severity::Warning) => Self::Warning,
            Some(Severity::Note) | None => Self::Valid,
        }
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Warning => "warning",
            Self::Invalid => "invalid",
        }
    }
}

/// Checks an object. The result holds what decoding found too, so that it is the whole verdict. Of
/// an object with decoding errors the rest is checked as it was most likely meant; what may come of
/// those errors is not reported again.
pub fn validate(object: &Object) -> Vec<Message> {
    let mut messages = object.messages.clone();
    match (&object.spec, mended(object)) {
        (Some(spec), _) => messages.extend(found(object, spec, &object.root)),
        (None, Some(mended)) => {
            let more = found(object, &mended.spec, &mended.root).into_iter();
            let more = more.filter(|m| m.severity == Severity::Error && mended.is_own(m));
            messages.extend(more);
            messages.extend(mended.inside);
        }
        (None, None) => {}
    }
    messages
}

/// What the validator finds in a spec.
fn found(object: &Object, spec: &Spec, root: &Node) -> Vec<Message> {
    let mut check = Check::new(object, root);
    if let Err(reason) = annotations(object) {
        check.error(reason);
    }
    match spec {
        Spec::ServiceEntry(entry) => service_entry::service_entry(&mut check, entry),
        Spec::VirtualService(service) => virtual_service::virtual_service(&mut check, service),
        Spec::DestinationRule(rule) => destination_rule::destination_rule(&mut check, rule),
        Spec::Sidecar(sidecar) => sidecar::sidecar(&mut check, sidecar),
        Spec::WorkloadEntry(entry) => {
            workload_entry::workload_entry(&mut check, entry, None, true);
        }
    }
    check.finish()
}

/// Whether an `exportTo` and the selector of a `DestinationRule` are valid together, and can be about a workload: Istio
/// takes labels that no workload can have.
pub fn are_valid_clients(
    object: &Object,
    export_to: &[String],
    selector: Option<&MatchLabelsSelector>,
) -> bool {
    let mut check = Check::new(object, &object.root);
    destination_rule::clients(&mut check, export_to, selector);
    check.some("workloadSelector", selector, |check, selector| {
        common::labels(check, "matchLabels", &selector.match_labels);
    });
    names::is_label(&object.meta.namespace) && Verdict::of(&check.finish()) != Verdict::Invalid
}

/// Annotations that no user may set (istio `validateMetadata`).
fn annotations(object: &Object) -> check::Rule {
    let meta = &object.meta;
    if meta.annotations.contains_key("istio.io/dry-run") {
        return Err(format!(
            "{}/{} has unsupported annotation istio.io/dry-run, please remove the annotation",
            meta.namespace, meta.name
        ));
    }
    if meta
        .annotations
        .contains_key("internal.istio.io/webhook-always-reject")
    {
        return Err(
            "\"internal.istio.io/webhook-always-reject\" annotation found, rejecting".to_owned(),
        );
    }
    Ok(())
}
