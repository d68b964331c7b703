//! The fields of a resource that the gate does not carry out.
//!
//! Owns the walk over one object and the messages, so that no field is ignored silently. `table`
//! says which effect a field has, `routes` what the effect does to a route.

#[cfg(test)]
mod every_field_tests;
pub mod table;

use super::virtual_service::{for_mesh, serves_mesh};
use crate::istio::destination_rule::{DestinationRule, TrafficPolicy};
use crate::istio::message::{Path, Step};
use crate::istio::service_entry::{Resolution, ServiceEntry};
use crate::istio::sidecar::Sidecar;
use crate::istio::virtual_service::{HttpRoute, VirtualService};
use crate::istio::{Message, Object, Severity, Spec};
use crate::traffic::MergedPolicy;
use table::{Effect, Field, PortOf};

/// One message for each field of an object that asks for something that is not carried out: a warning, or a note if the
/// field has no effect here.
pub fn not_done(object: &Object) -> Vec<Message> {
    let mut notes = Notes {
        object,
        path: vec![Step::Field("spec")],
        found: Vec::new(),
    };
    match &object.spec {
        Some(Spec::ServiceEntry(spec)) => notes.service_entry(spec),
        Some(Spec::VirtualService(spec)) if serves_mesh(spec) => notes.virtual_service(spec),
        Some(Spec::DestinationRule(spec)) => notes.destination_rule(spec),
        Some(Spec::Sidecar(spec)) => notes.sidecar(spec),
        Some(Spec::WorkloadEntry(spec)) => notes.fields(table::ENDPOINT, spec, "the endpoint"),
        Some(Spec::VirtualService(_)) | None => {}
    }
    notes.found
}

/// The field that makes an HTTP route serve nothing, as a path below the route.
pub fn denied_route(route: &HttpRoute) -> Option<&'static str> {
    let of_destination = |to| table::serves_nothing(table::HTTP_DESTINATION, to);
    table::serves_nothing(table::HTTP_ROUTE, route).or_else(|| {
        let found = route.route.iter().find_map(of_destination);
        found.map(|_| "route.headers")
    })
}

struct Notes<'a> {
    object: &'a Object,
    path: Vec<Step>,
    found: Vec<Message>,
}

impl Notes<'_> {
    /// Adds a message for each field of a table that the object sets. `whole` names what then serves nothing.
    fn fields<T>(&mut self, table: &[Field<T>], of: &T, whole: &str) {
        for field in table.iter().filter(|f| (f.asked)(of)) {
            let (severity, effect) = match field.effect {
                Effect::PassedOver => (
                    Severity::Warning,
                    "is not carried out, and is passed over".to_owned(),
                ),
                Effect::NoEffect => (Severity::Note, "has no effect".to_owned()),
                Effect::ServesNothing => (
                    Severity::Warning,
                    format!("is not carried out, so {whole} serves nothing"),
                ),
            };
            let note = if field.note.is_empty() {
                String::new()
            } else {
                format!(": {}", field.note)
            };
            self.say(severity, field.name, format!("{effect}{note}"));
        }
    }

    fn say(&mut self, severity: Severity, field: &'static str, text: String) {
        let mut steps = self.path.clone();
        steps.extend(field.split('.').map(Step::Field));
        let message = self.object.message(severity, &Path(steps), text);
        self.found.push(message);
    }

    fn each<T>(&mut self, field: &'static str, items: &[T], mut visit: impl FnMut(&mut Self, &T)) {
        for (i, item) in items.iter().enumerate() {
            self.path.extend([Step::Field(field), Step::Index(i)]);
            visit(self, item);
            self.path.truncate(self.path.len() - 2);
        }
    }

    fn inside(&mut self, field: &'static str, visit: impl FnOnce(&mut Self)) {
        self.path.push(Step::Field(field));
        visit(self);
        self.path.pop();
    }

    fn service_entry(&mut self, spec: &ServiceEntry) {
        let vips = !spec.addresses.is_empty() && spec.resolution() != Resolution::None;
        self.each("ports", &spec.ports, |notes, port| {
            notes.fields(
                &table::port(),
                &PortOf { port, vips },
                "this use of the port",
            );
        });
        self.each("endpoints", &spec.endpoints, |notes, endpoint| {
            notes.fields(table::ENDPOINT, endpoint, "the endpoint");
        });
    }

    fn virtual_service(&mut self, spec: &VirtualService) {
        self.each("http", &spec.http, |notes, route| {
            let mut matches = route.r#match.iter();
            let here = route.r#match.is_empty() && for_mesh(spec, &[])
                || matches.any(|m| for_mesh(spec, &m.gateways));
            if here {
                notes.fields(table::HTTP_ROUTE, route, "this route");
                notes.each("match", &route.r#match, |notes, m| {
                    if for_mesh(spec, &m.gateways) {
                        notes.fields(table::HTTP_MATCH, m, "this route");
                    }
                });
                notes.each("route", &route.route, |notes, to| {
                    notes.fields(table::HTTP_DESTINATION, to, "this route");
                });
            }
        });
        self.each("tcp", &spec.tcp, |notes, route| {
            notes.each("match", &route.r#match, |notes, m| {
                if for_mesh(spec, &m.gateways) {
                    notes.fields(table::TCP_MATCH, m, "this route");
                }
            });
        });
    }

    fn destination_rule(&mut self, spec: &DestinationRule) {
        if let Some(policy) = &spec.traffic_policy {
            self.traffic_policy(policy, "the host");
        }
        self.each("subsets", &spec.subsets, |notes, subset| {
            if let Some(policy) = &subset.traffic_policy {
                notes.traffic_policy(policy, "the subset");
            }
        });
    }

    fn traffic_policy(&mut self, policy: &TrafficPolicy, whole: &str) {
        self.inside("trafficPolicy", |notes| {
            notes.fields(&table::traffic_policy(), &MergedPolicy::from(policy), whole);
            notes.each(
                "portLevelSettings",
                &policy.port_level_settings,
                |notes, port| {
                    notes.fields(
                        &table::traffic_policy(),
                        &MergedPolicy::from(port),
                        "the port",
                    );
                },
            );
        });
    }

    fn sidecar(&mut self, spec: &Sidecar) {
        self.fields(table::SIDECAR, spec, "it");
        self.each("egress", &spec.egress, |notes, listener| {
            notes.fields(table::LISTENER, listener, "it");
        });
    }
}
