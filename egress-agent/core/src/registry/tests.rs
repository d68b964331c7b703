//! Tests which `VirtualService` and which entry is in force.

use super::Registry;
use super::not_done::not_done;
use super::plan::{HostPlan, Share};
use super::scope::Workload;
use super::view::View;
use crate::istio::{Object, Severity, decode};
use crate::traffic::HttpAction;
use std::sync::Arc;

fn objects(text: &str) -> Vec<Arc<Object>> {
    let decoded = decode("test.yaml", text);
    assert!(!decoded.is_broken(), "{:?}", decoded.messages);
    decoded.objects.into_iter().map(Arc::new).collect()
}

fn entry(name: &str, host: &str, ports: &str) -> String {
    let spec = format!("{{hosts: [{host:?}], resolution: DNS, ports: [{ports}]}}");
    object("ServiceEntry", name, &spec)
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn vs(name: &str, host: &str, rest: &str) -> String {
    object(
        "VirtualService",
        name,
        &format!("{{hosts: [{host:?}], {rest}}}"),
    )
}

fn to(host: &str, timeout: &str) -> String {
    let timeout = if timeout.is_empty() {
        String::new()
    } else {
        format!("timeout: {timeout}, ")
    };
    format!("{{{timeout}route: [{{destination: {{host: {host}}}}}]}}")
}

const HTTP: &str = "{number: 80, name: http, protocol: HTTP}";
const TLS: &str = "{number: 443, name: tls, protocol: TLS}";

fn plan_of(text: &str, host: &str) -> Arc<HostPlan> {
    let registry = Registry::new(&objects(text), "cluster.local");
    let scope = registry.scope_of(&Workload::default());
    Arc::clone(&View::new(&registry, scope).plans[host])
}

/// Routes of port 80 as `HOST:PORT SECONDS`.
fn http(text: &str, host: &str) -> Vec<String> {
    let plan = plan_of(text, host);
    let routes = plan.get(80).unwrap().http.iter().flatten();
    routes
        .map(|r| {
            let to = |share: &Share| {
                let (id, weight) = (&share.to.id, share.weight);
                format!("{}:{}*{weight} ", id.host, id.port)
            };
            let shares = r.action.iter().filter_map(HttpAction::destinations);
            let to: String = shares.flatten().map(to).collect();
            to + &r.policy.timeout.unwrap_or_default().as_secs().to_string()
        })
        .collect()
}

#[test]
fn the_virtual_service_in_force_is_the_oldest_for_the_most_specific_host() {
    let base = entry("a", "a.x.com", HTTP);
    let exact = vs(
        "z-exact",
        "a.x.com",
        &format!("http: [{}]", to("a.x.com", "1s")),
    );
    let younger = vs(
        "zz-exact",
        "a.x.com",
        &format!("http: [{}]", to("a.x.com", "2s")),
    );
    let wild = vs(
        "wild",
        "*.x.com",
        &format!("http: [{}]", to("a.x.com", "3s")),
    );
    let wider = vs(
        "b-wider",
        "*.com",
        &format!("http: [{}]", to("a.x.com", "4s")),
    );
    let gateway = vs(
        "a-gateway",
        "a.x.com",
        &format!(
            "gateways: [istio-system/out], http: [{}]",
            to("a.x.com", "5s")
        ),
    );
    let only_tls = vs("a-tls", "a.x.com", "tls: []");
    for (parts, expected) in [
        (vec![&base], "a.x.com:80*1 0"),
        (vec![&base, &exact], "a.x.com:80*1 1"),
        (vec![&younger, &base, &exact], "a.x.com:80*1 1"),
        (vec![&base, &wild, &exact], "a.x.com:80*1 1"),
        (vec![&base, &wider, &wild], "a.x.com:80*1 3"),
        (vec![&base, &wider], "a.x.com:80*1 4"),
        (vec![&base, &gateway], "a.x.com:80*1 0"),
        (vec![&base, &gateway, &only_tls, &wild], "a.x.com:80*1 3"),
    ] {
        let text: String = parts.into_iter().map(String::as_str).collect();
        assert_eq!(http(&text, "a.x.com"), [expected], "{text}");
    }
}

#[test]
fn creation_time_comes_before_the_name() {
    let named = |name: &str, time: &str, timeout: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, \
             creationTimestamp: {time:?}}}\nspec: {{hosts: [a.com], http: [{}]}}\n",
            to("a.com", timeout)
        )
    };
    let text = entry("a", "a.com", HTTP)
        + &named("a", "2026-02-01T00:00:00Z", "1s")
        + &named("b", "2026-01-01T00:00:00Z", "2s");
    assert_eq!(http(&text, "a.com"), ["a.com:80*1 2"]);
}

#[test]
fn routes_apply_to_the_ports_that_their_matches_name() {
    let base =
        entry("a", "a.com", HTTP) + &entry("b", "b.com", "{number: 8080, name: h, protocol: HTTP}");
    for (routes, expected) in [
        (
            "{match: [{port: 80}], timeout: 1s, route: [{destination: {host: a.com}}]}",
            vec!["a.com:80*1 1"],
        ),
        // None for this port: the service's own route.
        (
            "{match: [{port: 81}], timeout: 1s, route: [{destination: {host: a.com}}]}",
            vec!["a.com:80*1 0"],
        ),
        (
            "{match: [{gateways: [gw]}], timeout: 1s, route: [{destination: {host: a.com}}]}",
            vec!["a.com:80*1 0"],
        ),
        // The destination's only port need not be named.
        (
            "{route: [{destination: {host: b.com}}]}",
            vec!["b.com:8080*1 0"],
        ),
        (
            "{route: [{destination: {host: b.com, port: {number: 9}}}]}",
            vec!["b.com:9*1 0"],
        ),
        // A weight of zero gets nothing.
        (
            "{route: [{destination: {host: b.com}, weight: 0}, {destination: {host: a.com}, weight: 1}]}",
            vec!["a.com:80*1 0"],
        ),
        (
            "{match: [{uri: {prefix: /x}}], route: [{destination: {host: b.com}}]}, {route: [{destination: {host: a.com}}]}",
            vec!["b.com:8080*1 0", "a.com:80*1 0"],
        ),
        (
            "{route: [{destination: {host: b.com}, weight: 1}, {destination: {host: a.com}, weight: 3}]}",
            vec!["b.com:8080*1 a.com:80*3 0"],
        ),
        // For other clients: the service's own route.
        (
            "{match: [{sourceLabels: {app: x}}], timeout: 1s, route: [{destination: {host: a.com}}]}",
            vec!["a.com:80*1 0"],
        ),
        // A route that cannot be carried out serves nothing, and no other route replaces it.
        (
            "{redirect: {uri: /x}}, {route: [{destination: {host: a.com}}]}",
            vec!["0"],
        ),
    ] {
        let text = base.clone() + &vs("v", "a.com", &format!("http: [{routes}]"));
        assert_eq!(http(&text, "a.com"), expected, "{routes}");
    }
}

#[test]
fn a_tls_match_takes_the_port_from_the_services_own_name() {
    let base = entry("a", "a.com", TLS);
    assert!(plan_of(&base, "a.com").get(443).unwrap().own_name);
    let tls = |m: &str| {
        let route = format!("tls: [{{match: [{m}], route: [{{destination: {{host: b.com}}}}]}}]");
        plan_of(&(base.clone() + &vs("v", "a.com", &route)), "a.com")
            .get(443)
            .unwrap()
            .clone()
    };
    let matched = tls("{port: 443, sniHosts: [A.com]}");
    assert!(!matched.own_name);
    assert_eq!(
        (
            matched.tls[0].sni_hosts.as_slice(),
            &*matched.tls[0].to[0].to.id.host
        ),
        (&["a.com".to_owned()][..], "b.com")
    );
    assert!(tls("{port: 444, sniHosts: [a.com]}").own_name);
    assert!(tls("{port: 443, sniHosts: [a.com], sourceNamespace: x}").own_name);
    let subnets = tls("{port: 443, sniHosts: [a.com], destinationSubnets: [203.0.113.9/24]}");
    assert_eq!(subnets.tls[0].nets, ["203.0.113.0/24".parse().unwrap()]);
}

#[test]
fn http_rules_have_no_effect_on_tls_ports() {
    let text =
        entry("a", "a.com", TLS) + &vs("v", "a.com", &format!("http: [{}]", to("a.com", "1s")));
    let plan = plan_of(&text, "a.com");
    assert!(plan.get(443).unwrap().http.is_none() && plan.get(443).unwrap().own_name);
}

#[test]
fn entries_for_one_host_merge_if_they_agree_and_the_oldest_holds_if_not() {
    let other = object(
        "ServiceEntry",
        "c",
        "{hosts: [a.com], resolution: NONE, ports: [{number: 9, name: x, protocol: TCP}]}",
    );
    let text = entry("b", "A.com.", TLS) + &other + &entry("a", "a.com", HTTP);
    let registry = Registry::new(&objects(&text), "cluster.local");
    let view = View::everything(&registry);
    let service = &view.services["a.com"];
    assert_eq!(service.ports().into_keys().collect::<Vec<_>>(), [80, 443]);
    assert_eq!(service.left_out.len(), 1);
}

#[test]
fn what_is_asked_and_not_done_is_named_by_field() {
    let large = "[acegikmoqsuwy02468]{1000}".repeat(39);
    let rest = "http: [{match: [{uri: {exact: /}}], redirect: {uri: /, redirectCode: 304}}, {headers: {response: {add: {x: '%X%'}}}, retries: {}, route: [{headers: {request: {set: {te: x}}}, destination: {host: a.com, subset: s}}]}, {match: [{queryParams: {q: {regex: LARGE}}}], corsPolicy: {allowOrigins: [{regex: LARGE}]}, route: [{destination: {host: a.com}}]}], tcp: [{}]";
    let text = vs("v", "a.com", &rest.replace("LARGE", &format!("'{large}'")));
    let found = not_done(&objects(&text)[0]);
    let fields: Vec<_> = found.iter().map(|m| m.field.as_str()).collect();
    let expected = [
        "spec.http[0].redirect.redirectCode",
        "spec.http[1].headers",
        "spec.http[1].route[0].headers",
        "spec.http[2].match",
        "spec.http[2].corsPolicy.allowOrigins",
    ];
    assert_eq!(fields, expected);
    assert!(found.iter().all(|m| m.line == 5), "{found:?}");
    assert!(
        found[0].text.contains("this route serves nothing"),
        "{found:?}"
    );
    let plain = vs("v", "a.com", &format!("http: [{}]", to("a.com", "3s")));
    assert_eq!(not_done(&objects(&plain)[0]), []);
    assert_eq!(not_done(&objects(&entry("a", "a.com", HTTP))[0]), []);
}

#[test]
fn what_is_passed_over_is_named_by_field_and_what_has_no_effect_in_a_note() {
    let rule = object(
        "DestinationRule",
        "d",
        "{host: a.com, trafficPolicy: {retryBudget: {budgetInterval: 10s}, loadBalancer: {localityLbSetting: {enabled: true, failover: [{from: a, to: b}]}, consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 100}}}}, subsets: [{name: s, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 9}}}}, {name: t, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 7}}}}}]}",
    );
    let route = "http: [{match: [{statPrefix: x}], retries: {attempts: 1, retryRemoteLocalities: true}, route: [{destination: {host: a.com}}]}]";
    let entry = object(
        "ServiceEntry",
        "e",
        "{hosts: [a.com], resolution: STATIC, ports: [{number: 9, name: x, protocol: TCP}], endpoints: [{address: 192.0.2.1, network: net, locality: a/b}]}",
    );
    let alone = object("WorkloadEntry", "w", "{address: 192.0.2.1, locality: a}");
    let sidecar = object(
        "Sidecar",
        "s",
        "{ingress: [{port: {number: 80, protocol: HTTP, name: h}}], inboundConnectionPool: {http: {maxRetries: 1}}}",
    );
    let (warning, note) = (Severity::Warning, Severity::Note);
    for (text, expected, severities) in [
        (
            rule,
            &[
                "spec.trafficPolicy.loadBalancer.localityLbSetting",
                "spec.trafficPolicy.loadBalancer.consistentHash.ringHash.minimumRingSize",
                "spec.trafficPolicy.retryBudget.budgetInterval",
                "spec.subsets[0].trafficPolicy.loadBalancer.consistentHash.minimumRingSize",
                "spec.subsets[1].trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
            ][..],
            &[warning, note, warning, note, note][..],
        ),
        (
            vs("v", "a.com", route),
            &[
                "spec.http[0].retries.retryRemoteLocalities",
                "spec.http[0].match[0].statPrefix",
            ],
            &[note, warning],
        ),
        (
            entry,
            &["spec.endpoints[0].network", "spec.endpoints[0].locality"],
            &[note, note],
        ),
        (alone, &["spec.locality"], &[note]),
        (
            sidecar,
            &["spec.ingress", "spec.inboundConnectionPool"],
            &[note, note],
        ),
    ] {
        let found = not_done(&objects(&text)[0]);
        let fields: Vec<_> = found.iter().map(|m| m.field.as_str()).collect();
        assert_eq!(fields, expected);
        let found: Vec<_> = found.iter().map(|m| m.severity).collect();
        assert_eq!(found, severities, "{expected:?}");
    }
}
