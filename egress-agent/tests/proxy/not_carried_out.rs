//! Rules with fields that are not carried out: if the field narrows or protects, the flow is denied with a reason that
//! names the field, and nothing reaches the origin. Fields of mere convenience are ignored.

use crate::raw::*;
use crate::support::*;
use crate::yaml::*;
use egress_agent::proxy::{DenialReason, Limits};
use egress_core::routing::PortRoutes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Case {
    bed: Bed,
    reached: Arc<AtomicUsize>,
}

impl Case {
    /// A client that dials the service's address under these rules.
    async fn new(port: &str, more: &str) -> Self {
        let reached = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reached);
        let origin = raw_origin(move |_, mut raw| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                if raw.head().await.is_some() {
                    raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                        .await;
                }
            }
        })
        .await;
        let from = destination("192.0.2.1:80");
        let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
        bed.put(rules(origin, port, more));
        Self { bed, reached }
    }

    async fn denied(&self, field: &str) {
        let reason = self.bed.denial().await;
        let DenialReason::NotCarriedOut(why) = reason else {
            panic!("{field}: {reason:?}");
        };
        assert!(why.starts_with(field), "{why} is not about {field}");
        assert!(why.contains("(rules.yaml:"), "{why} names no place");
        assert_eq!(
            self.reached.load(Ordering::SeqCst),
            0,
            "{field}: bytes left"
        );
    }
}

const HTTP: &str = "protocol: HTTP";

#[tokio::test]
async fn an_http_request_under_a_field_that_narrows_gets_503_and_does_not_leave() {
    let large = format!("(?:{})?/", "[acegikmoqsuwy02468]{1000}".repeat(38));
    for (more, field) in [
        (
            rule("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"),
            "trafficPolicy.tls.mode",
        ),
        (
            rule("trafficPolicy: {tls: {mode: MUTUAL, credentialName: 'configmap://default/a'}}"),
            "trafficPolicy.tls.credentialName",
        ),
        (
            rule("trafficPolicy: {tls: {mode: SIMPLE, credentialName: 'configmap://a'}}"),
            "trafficPolicy.tls.credentialName",
        ),
        (
            rule("trafficPolicy: {tls: {mode: SIMPLE, credentialName: 'invalid://'}}"),
            "trafficPolicy.tls.credentialName",
        ),
        (
            rule("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"),
            "trafficPolicy.tls.mode",
        ),
        (
            rule(
                "trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]}",
            ),
            "trafficPolicy.tls.mode",
        ),
        (
            rule("subsets: [{name: s, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}]")
                + "---\n"
                + &object(
                    "VirtualService",
                    "{hosts: [a.example], http: [{route: [{destination: {host: a.example, subset: s}}]}]}",
                ),
            "trafficPolicy.tls.mode",
        ),
        (
            rule(
                "subsets: [{name: s, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]}}]",
            ) + "---\n"
                + &object(
                    "VirtualService",
                    "{hosts: [a.example], http: [{route: [{destination: {host: a.example, subset: s}}]}]}",
                ),
            "trafficPolicy.tls.mode",
        ),
        (
            object(
                "DestinationRule",
                "{host: '*.example', trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}",
            ),
            "trafficPolicy.tls.mode",
        ),
        (
            route("http", "headers: {request: {set: {content-length: '3'}}}"),
            "spec.http[0].headers",
        ),
        (
            route("http", "headers: {response: {add: {x: '%HOSTNAME%'}}}"),
            "spec.http[0].headers",
        ),
        (
            object(
                "VirtualService",
                "{hosts: [a.example], http: [{route: [{destination: {host: a.example}, headers: {request: {set: {te: x}}}}]}]}",
            ),
            "spec.http[0].route.headers",
        ),
        (
            object(
                "VirtualService",
                "{hosts: [a.example], http: [{redirect: {uri: /b, redirectCode: 304}}]}",
            ),
            "spec.http[0].redirect.redirectCode",
        ),
        (
            route("http", &format!("match: [{{uri: {{regex: '{large}'}}}}]")),
            "spec.http[0].match",
        ),
        (
            route(
                "http",
                &format!("corsPolicy: {{allowOrigins: [{{regex: '{large}'}}]}}"),
            ),
            "spec.http[0].corsPolicy.allowOrigins",
        ),
    ] {
        for protocol in [HTTP, "protocol: ''"] {
            let case = Case::new(protocol, &more).await;
            let reply = case.bed.client().await.ask(&get("a.example", "/")).await;
            assert_eq!((reply.status(), reply.text()), (503, ""), "{more}");
            case.denied(field).await;
        }
    }
}

#[tokio::test]
async fn a_route_that_is_denied_keeps_its_requests_from_the_routes_behind_it() {
    let more = object(
        "VirtualService",
        "{hosts: [a.example], http: [{match: [{uri: {prefix: /admin}}], headers: {request: {set: {te: x}}}, \
         route: [{destination: {host: a.example}}]}, {route: [{destination: {host: a.example}}]}]}",
    );
    let case = Case::new(HTTP, &more).await;
    let mut client = case.bed.client().await;
    assert_eq!(
        client.ask(&get("a.example", "/admin/x")).await.status(),
        503
    );
    case.denied("spec.http[0].headers").await;
    assert_eq!(client.ask(&get("a.example", "/")).await.status(), 200);
}

#[tokio::test]
async fn a_connection_under_a_field_that_narrows_is_closed_and_does_not_leave() {
    let tls = rule("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}");
    let subnet = route("tcp", "match: [{sourceSubnet: 10.0.0.0/8}]");
    let hello = crate::tls::real_hello("a.example");
    let http = get("a.example", "/").into_bytes();
    for (protocol, more, field, bytes) in [
        ("protocol: TCP", &tls, "trafficPolicy.tls.mode", &http),
        (
            "protocol: TCP",
            &subnet,
            "spec.tcp[0].match[0].sourceSubnet",
            &http,
        ),
        ("protocol: TLS", &tls, "trafficPolicy.tls.mode", &hello),
        ("protocol: HTTPS", &tls, "trafficPolicy.tls.mode", &hello),
        ("protocol: ''", &tls, "trafficPolicy.tls.mode", &hello),
    ] {
        let case = Case::new(protocol, more).await;
        let mut client = case.bed.client().await;
        client.send(bytes).await;
        assert_eq!(client.rest().await, b"", "{protocol} {more}");
        case.denied(field).await;
    }
}

#[tokio::test]
async fn a_field_of_convenience_is_passed_over() {
    for more in [
        rule("trafficPolicy: {tls: {mode: DISABLE}}"),
        rule(
            "trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}, outlierDetection: {}, loadBalancer: {simple: RANDOM}}",
        ),
        // A policy of a port inherits nothing from that of the host (istio `MergeTrafficPolicy`).
        rule(
            "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}, portLevelSettings: [{port: {number: 80}, outlierDetection: {}}]}",
        ),
        // No route leads to the subset.
        rule("subsets: [{name: s, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}]"),
        // Only the most specific rule applies.
        object(
            "DestinationRule",
            "{host: '*.example', trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}",
        ) + "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: c}\nspec: {host: a.example}\n",
        route("http", "mirror: {host: b.example}"),
        route("http", "headers: {}"),
    ] {
        let case = Case::new(HTTP, &more).await;
        let reply = case.bed.client().await.ask(&get("a.example", "/")).await;
        assert_eq!(reply.status(), 200, "{more}");
    }
}
