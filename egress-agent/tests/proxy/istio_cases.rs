//! Cases of Istio's own integration tests about routes and TLS origination (istio `tests/integration/pilot/common`,
//! `routing.go`), from YAML to what the origin sees. The parity suite has the others.

use crate::raw::{Raw, get, raw_origin};
use crate::streams::Client;
use crate::support::{Bed, destination};
use crate::tls_origin::{Authority, Server};
use crate::yaml::{route, routes as table_of, rules};
use egress_agent::proxy::Limits;
use egress_core::routing::{PortRoutes, RouteTable};
use std::net::SocketAddr;

const HOST: &str = "a.example";

/// Answers each request with the Host that it names, and its name.
async fn named(name: &'static str) -> SocketAddr {
    raw_origin(move |_, mut raw: Raw| async move {
        while let Some(head) = raw.head().await {
            let host = head.lines().find_map(|line| line.strip_prefix("host: "));
            let text = format!("{name} {}", host.unwrap_or_default());
            let length = text.len();
            raw.send(
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}").as_bytes(),
            )
            .await;
        }
    })
    .await
}

async fn bed(table: RouteTable) -> Bed {
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    bed.put(table);
    bed
}

async fn ask(bed: &Bed) -> (u16, String) {
    let reply = bed.client().await.ask(&get(HOST, "/")).await;
    (reply.status(), reply.text().to_owned())
}

#[tokio::test]
async fn of_several_destinations_the_route_outweighs_in_the_host_that_it_sets() {
    let origin = named("a").await;
    let to = |own: &str| format!("{{destination: {{host: a.example}}, weight: 50{own}}}");
    let own = ", headers: {request: {set: {':authority': dest-authority}}}";
    for (routes, fields, host) in [
        (
            [to(own), to("")],
            "headers: {request: {set: {Host: route-authority}}}",
            "route-authority",
        ),
        ([to(own), to(own)], "name: r", "dest-authority"),
    ] {
        let rule = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: b}}\nspec: \
             {{hosts: [a.example], http: [{{route: [{}], {fields}}}]}}\n",
            routes.join(", ")
        );
        let bed = bed(rules(origin, "protocol: HTTP", &rule)).await;
        for _ in 0..4 {
            assert_eq!(ask(&bed).await, (200, format!("a {host}")));
        }
    }
}

#[tokio::test]
async fn the_first_of_two_routes_that_match_everything_is_taken() {
    let origin = named("a").await;
    let rule = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: b}\nspec:\n  \
        hosts: [a.example]\n  http:\n  - match: [{uri: {regex: .*}}]\n    \
        fault: {abort: {percentage: {value: 100}, httpStatus: 418}}\n    \
        route: [{destination: {host: a.example}}]\n  - route: [{destination: {host: a.example}}]\n";
    let bed = bed(rules(origin, "protocol: HTTP", rule)).await;
    assert_eq!(ask(&bed).await, (418, "fault filter abort".into()));
}

#[tokio::test]
async fn conditions_of_retries_are_taken() {
    let origin = named("a").await;
    let retries = "retries: {attempts: 3, perTryTimeout: 2s, retryRemoteLocalities: true, \
        retryOn: 'gateway-error,connect-failure,refused-stream,reset-before-request'}";
    let bed = bed(rules(origin, "protocol: HTTP", &route("http", retries))).await;
    assert_eq!(ask(&bed).await, (200, "a a.example".into()));
}

#[tokio::test]
async fn weights_are_shares_of_the_requests() {
    for weights in [[50, 25, 25], [80, 10, 10]] {
        let (mut text, mut routes) = (String::new(), Vec::new());
        for (name, weight) in ["a", "b", "c"].iter().zip(weights) {
            let origin = named(name).await;
            let (ip, port) = (origin.ip(), origin.port());
            let entry = format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  \
                 hosts: [{name}.example]\n  resolution: STATIC\n  addresses: [192.0.2.1]\n  \
                 ports: [{{number: 80, name: p, protocol: HTTP}}]\n  endpoints: [{{address: {ip}, ports: {{p: {port}}}}}]\n---\n"
            );
            text.push_str(&entry);
            routes.push(format!(
                "{{destination: {{host: {name}.example}}, weight: {weight}}}"
            ));
        }
        let route = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec: \
             {{hosts: [a.example], http: [{{route: [{}]}}]}}\n",
            routes.join(", ")
        );
        text.push_str(&route);
        let bed = bed(table_of(&text, "")).await;
        let mut counts = [0; 3];
        let mut client = bed.client().await;
        for _ in 0..100 {
            let reply = client.ask(&get(HOST, "/")).await;
            counts[usize::from(reply.text().as_bytes()[0] - b'a')] += 1;
        }
        for (count, weight) in counts.iter().zip(weights) {
            assert!((weight - 10..=weight + 10).contains(count), "{counts:?}");
        }
    }
}

#[tokio::test]
async fn tls_to_an_https_port_speaks_http1_whatever_the_port_that_was_dialled() {
    let authority = Authority::new();
    let mut config = authority.server(&authority.identity(&[HOST]), false);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = Server::new(config).await;
    let file = authority.path("ca.pem").display().to_string();
    let (ip, at) = (server.address.ip(), server.address.port());
    for protocol in ["HTTP", "HTTP2"] {
        let bed = bed(table_of(&format!(
            "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: a}}
spec:
  hosts: [a.example]
  resolution: STATIC
  addresses: [192.0.2.1]
  ports:
  - {{number: 80, name: plain, protocol: {protocol}}}
  - {{number: 443, name: tls, protocol: HTTPS}}
  endpoints: [{{address: {ip}, ports: {{tls: {at}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: a}}
spec: {{hosts: [a.example], http: [{{route: [{{destination: {{host: a.example, port: {{number: 443}}}}}}]}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: a}}
spec: {{host: a.example, trafficPolicy: {{tls: {{mode: SIMPLE, caCertificates: {file}}}}}}}
"
        ), ""))
        .await;
        let seen = "sni=a.example alpn=http/1.1 cert=false body=0";
        let (status, text) = ask(&bed).await;
        assert!(
            status == 200 && [seen, &seen.replace("http/1.1", "-")].contains(&&*text),
            "{text}"
        );
        let reply = Client::new(&bed).await.get(HOST, "/").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.text(), text);
    }
}
