//! What a resource asks for and the gate does not do yet, by field.
//!
//! Owns the list, so that nothing is passed over in silence. A field that is here either denies
//! (a route that cannot be judged gets nothing) or has no effect; the text says which.

use super::services::Class;
use crate::istio::message::{Path, Step};
use crate::istio::service_entry::{Resolution, ServiceEntry};
use crate::istio::virtual_service::{HttpRoute, VirtualService};
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
            notes.each("subsets", &spec.subsets, |notes, subset| {
                notes.say_if(subset.traffic_policy.is_some(), "trafficPolicy", NO_EFFECT);
            });
        }
        Some(Spec::Sidecar(spec)) => {
            let policy = spec.outbound_traffic_policy.as_ref();
            if policy.is_some_and(|p| p.egress_proxy.is_some()) {
                notes.inside("outboundTrafficPolicy", |notes| {
                    notes.say("egressProxy", NO_EFFECT);
                });
            }
            notes.each("egress", &spec.egress, |notes, listener| {
                notes.say_if(!listener.bind.is_empty(), "bind", NO_EFFECT);
                let proxy = listener.port.as_ref();
                let proxy = proxy.is_some_and(|p| p.protocol.eq_ignore_ascii_case("HTTP_PROXY"));
                notes.say_if(
                    proxy,
                    "port",
                    "a listener for an explicit proxy is not done yet",
                );
            });
        }
        Some(Spec::WorkloadEntry(_)) | None => {}
    }
    notes.found
}

const NO_EFFECT: &str = "is not done yet and has no effect";
const NO_ROUTE: &str = "is not done yet; this route serves nothing";

struct Notes<'a> {
    object: &'a Object,
    path: Vec<Step>,
    found: Vec<Message>,
}

impl Notes<'_> {
    fn say(&mut self, field: &str, text: &str) {
        let mut steps = self.path.clone();
        if !field.is_empty() {
            steps.push(Step::Key(field.to_owned()));
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
                .extend([Step::Key(field.to_owned()), Step::Index(i)]);
            visit(self, item);
            self.path.truncate(self.path.len() - 2);
        }
    }

    fn inside(&mut self, field: &str, visit: impl FnOnce(&mut Self)) {
        self.path.push(Step::Key(field.to_owned()));
        visit(self);
        self.path.pop();
    }

    fn service_entry(&mut self, spec: &ServiceEntry) {
        let dynamic = spec.resolution == Resolution::DynamicDns;
        self.say_if(
            dynamic,
            "resolution",
            "DYNAMIC_DNS is not done yet; its hosts are refused",
        );
        let fixed = spec.resolution == Resolution::None;
        let vips = !spec.addresses.is_empty() && !fixed;
        self.each("ports", &spec.ports, |notes, port| {
            let udp = Class::parse(&port.protocol) == Some(Class::Udp);
            let moved = port.target_port != 0 && port.target_port != port.number;
            notes.say_if(
                udp && moved,
                "targetPort",
                "is not done yet for UDP; the port is refused",
            );
            notes.say_if(
                udp && vips,
                "protocol",
                "UDP to spec.addresses is not done yet; it is refused",
            );
            let h2 = ["http2", "grpc", "grpc-web"];
            notes.say_if(
                h2.contains(&port.protocol.to_ascii_lowercase().as_str()),
                "protocol",
                "HTTP/2 is not done yet; it is refused, HTTP/1.1 passes",
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
        self.each("http", &spec.http, Self::http);
    }

    fn http(&mut self, route: &HttpRoute) {
        self.say_if(route.redirect.is_some(), "redirect", NO_ROUTE);
        self.say_if(route.direct_response.is_some(), "directResponse", NO_ROUTE);
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
        self.each("route", &route.route, |notes, to| {
            notes.say_if(to.headers.is_some(), "headers", NO_EFFECT);
        });
    }
}
