//! What a resource asks for and the gate does not do yet, by field.
//!
//! Owns the list, so that nothing is passed over in silence. A field that is here either denies
//! (a route that cannot be judged gets nothing) or has no effect; the text says which.

use super::services::Class;
use crate::istio::message::{Path, Step};
use crate::istio::service_entry::{Resolution, ServiceEntry};
use crate::istio::virtual_service::{HttpMatchRequest, HttpRoute, TlsRoute, VirtualService};
use crate::istio::{Message, Object, Severity, Spec};

/// One warning for each field of an object that asks for something that is not done.
pub fn not_done(object: &Object) -> Vec<Message> {
    let mut notes = Notes {
        object,
        path: vec![Step::Key("spec".into())],
        found: Vec::new(),
    };
    match &object.spec {
        Some(Spec::ServiceEntry(spec)) => notes.service_entry(spec),
        Some(Spec::VirtualService(spec)) => notes.virtual_service(spec),
        Some(Spec::DestinationRule(spec)) => {
            notes.say_if(spec.traffic_policy.is_some(), "trafficPolicy", NO_EFFECT);
            notes.say_if(!spec.subsets.is_empty(), "subsets", NO_EFFECT);
        }
        Some(Spec::Sidecar(spec)) => {
            notes.say_if(!spec.egress.is_empty(), "egress", NO_EFFECT);
            let policy = spec.outbound_traffic_policy.is_some();
            notes.say_if(policy, "outboundTrafficPolicy", NO_EFFECT);
        }
        Some(Spec::WorkloadEntry(_)) => notes.say("", "workload entries select nothing yet"),
        None => {}
    }
    notes.found
}

const NO_EFFECT: &str = "is not done yet and has no effect";
const NO_ROUTE: &str = "is not done yet; this route serves nothing";
const NO_MATCH: &str = "is not done yet; what this match asks for is refused";

struct Notes<'a> {
    object: &'a Object,
    path: Vec<Step>,
    found: Vec<Message>,
}

impl Notes<'_> {
    fn say(&mut self, field: &str, text: &str) {
        let mut steps = self.path.clone();
        if !field.is_empty() {
            steps.push(Step::Key(field.to_owned().into()));
        }
        let path = Path(steps);
        let mark = self.object.place(&path);
        self.found.push(Message {
            severity: Severity::Warning,
            field: path.to_string(),
            line: mark.line,
            column: mark.column,
            text: text.to_owned(),
        });
    }

    fn say_if(&mut self, asked: bool, field: &str, text: &str) {
        if asked {
            self.say(field, text);
        }
    }

    fn each<T>(&mut self, field: &str, items: &[T], mut visit: impl FnMut(&mut Self, &T)) {
        for (i, item) in items.iter().enumerate() {
            self.path
                .extend([Step::Key(field.to_owned().into()), Step::Index(i)]);
            visit(self, item);
            self.path.truncate(self.path.len() - 2);
        }
    }

    fn export_to(&mut self, namespaces: &[String]) {
        let narrow = !namespaces.is_empty() && namespaces.iter().all(|n| n != "*");
        self.say_if(
            narrow,
            "exportTo",
            "is not done yet: every namespace sees it",
        );
    }

    fn service_entry(&mut self, spec: &ServiceEntry) {
        self.export_to(&spec.export_to);
        let dynamic = spec.resolution == Resolution::DynamicDns;
        self.say_if(
            dynamic,
            "resolution",
            "DYNAMIC_DNS is not done yet; its hosts are refused",
        );
        let selects = spec.workload_selector.is_some();
        self.say_if(
            selects,
            "workloadSelector",
            "is not done yet; it selects no endpoint",
        );
        let fixed = spec.resolution == Resolution::None;
        let vips = !spec.addresses.is_empty() && !fixed;
        self.each("ports", &spec.ports, |notes, port| {
            let opaque = matches!(Class::parse(&port.protocol), Some(Class::Tcp | Class::Udp));
            let moved = port.target_port != 0 && port.target_port != port.number;
            notes.say_if(
                opaque && moved,
                "targetPort",
                "is not done yet for this protocol; the port is refused",
            );
            notes.say_if(
                opaque && vips,
                "protocol",
                "connections of this protocol to spec.addresses are not done yet; they are refused",
            );
        });
        self.each("endpoints", &spec.endpoints, |notes, endpoint| {
            let unix = endpoint.address.starts_with("unix:");
            notes.say_if(
                unix,
                "address",
                "Unix sockets are not done yet; the endpoint is left out",
            );
            notes.say_if(endpoint.weight > 1, "weight", NO_EFFECT);
        });
    }

    fn virtual_service(&mut self, spec: &VirtualService) {
        self.export_to(&spec.export_to);
        self.say_if(!spec.tcp.is_empty(), "tcp", NO_EFFECT);
        self.each("http", &spec.http, Self::http);
        self.each("tls", &spec.tls, Self::tls);
    }

    fn http(&mut self, route: &HttpRoute) {
        self.each("match", &route.r#match, Self::http_match);
        self.say_if(route.redirect.is_some(), "redirect", NO_ROUTE);
        self.say_if(route.direct_response.is_some(), "directResponse", NO_ROUTE);
        self.say_if(route.delegate.is_some(), "delegate", NO_ROUTE);
        for (asked, field) in [
            (route.rewrite.is_some(), "rewrite"),
            (route.retries.is_some(), "retries"),
            (route.fault.is_some(), "fault"),
            (route.mirror.is_some(), "mirror"),
            (!route.mirrors.is_empty(), "mirrors"),
            (route.cors_policy.is_some(), "corsPolicy"),
            (route.headers.is_some(), "headers"),
        ] {
            self.say_if(asked, field, NO_EFFECT);
        }
        self.say_if(
            route.route.iter().filter(|r| r.weight > 0).count() > 1,
            "route",
            WEIGHTS,
        );
        self.each("route", &route.route, |notes, to| {
            notes.say_if(to.headers.is_some(), "headers", NO_EFFECT);
            let subset = to
                .destination
                .as_ref()
                .is_some_and(|d| !d.subset.is_empty());
            notes.say_if(
                subset,
                "destination",
                "subset is not done yet and has no effect",
            );
        });
    }

    fn http_match(&mut self, m: &HttpMatchRequest) {
        for (asked, field) in [
            (m.uri.is_some(), "uri"),
            (m.scheme.is_some(), "scheme"),
            (m.method.is_some(), "method"),
            (m.authority.is_some(), "authority"),
            (!m.headers.is_empty(), "headers"),
            (!m.query_params.is_empty(), "queryParams"),
            (!m.without_headers.is_empty(), "withoutHeaders"),
            (!m.source_labels.is_empty(), "sourceLabels"),
            (!m.source_namespace.is_empty(), "sourceNamespace"),
        ] {
            self.say_if(asked, field, "is not done yet; this match matches nothing");
        }
    }

    fn tls(&mut self, route: &TlsRoute) {
        self.each("match", &route.r#match, |notes, m| {
            notes.say_if(
                !m.destination_subnets.is_empty(),
                "destinationSubnets",
                NO_MATCH,
            );
            notes.say_if(!m.source_labels.is_empty(), "sourceLabels", NO_MATCH);
            notes.say_if(!m.source_namespace.is_empty(), "sourceNamespace", NO_MATCH);
        });
        self.say_if(
            route.route.iter().filter(|r| r.weight > 0).count() > 1,
            "route",
            WEIGHTS,
        );
    }
}

const WEIGHTS: &str = "weights are not done yet; everything goes to the first destination";
