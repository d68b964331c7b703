//! The decisions by Host, SNI and address.

use super::*;
use crate::routing::HttpRoute;
use crate::traffic::{ClusterId, HttpAction};
use egress_ebpf::ids::PolicyId;
use http::HeaderMap;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

static NO_HEADERS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);

fn head(authority: &str) -> RequestHead<'_> {
    RequestHead {
        authority,
        method: "GET",
        path: "/",
        headers: &NO_HEADERS,
    }
}

fn to(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn cluster(host: &str) -> Arc<Cluster> {
    Arc::new(Cluster {
        id: ClusterId::new(host, 80),
        ..Cluster::default()
    })
}

fn virtual_host(host: &str) -> Arc<VirtualHost> {
    Arc::new(VirtualHost {
        host: host.into(),
        nets: vec![],
        routes: vec![Arc::new(HttpRoute {
            matches: vec![],
            action: Ok(HttpAction::Forward(Split::one(cluster(host)))),
            policy: Arc::default(),
        })],
    })
}

fn table(port: PortRoutes) -> RouteTable {
    let ports = BTreeMap::from([(80, Arc::new(port))]);
    RouteTable {
        generation: 1,
        policies: BTreeMap::from([(
            PolicyId(7),
            Arc::new(PolicyRoutes {
                ports,
                ..PolicyRoutes::default()
            }),
        )]),
        ..RouteTable::default()
    }
}

const HOSTS: [&str; 6] = [
    "*.example.com",
    "a.example.com",
    "*.deep.example.com",
    "*odd.example",
    "exact.example",
    "*-x.example.com",
];

const CASES: [(&str, Option<&str>); 14] = [
    ("a.example.com", Some("a.example.com")),
    ("b.example.com", Some("*.example.com")),
    ("c.b.example.com", Some("*.example.com")),
    ("example.com", None),
    ("badexample.com", None),
    ("x.deep.example.com", Some("*.deep.example.com")),
    ("deep.example.com", Some("*.example.com")),
    ("b-x.example.com", Some("*-x.example.com")),
    ("odd.example", Some("*odd.example")),
    ("veryodd.example", Some("*odd.example")),
    ("exact.example", Some("exact.example")),
    ("sub.exact.example", None),
    ("exact.example.evil", None),
    ("*.example.com", None),
];

#[test]
fn the_most_specific_host_wins_whatever_the_order_of_the_list() {
    let mut hosts: Vec<_> = HOSTS.iter().map(|host| virtual_host(host)).collect();
    for _ in 0..2 {
        hosts.reverse();
        let table = table(PortRoutes {
            hosts: hosts.clone().into(),
            ..PortRoutes::default()
        });
        for (host, expected) in CASES {
            let head = head(host);
            let found = match table.http(PolicyId(7), to(80), &head, 0) {
                HttpDecision::Act(act) => {
                    let to = act.action.destinations().unwrap();
                    Some(to.cluster.id.host.to_string())
                }
                HttpDecision::UnlistedHost
                | HttpDecision::NoRoute
                | HttpDecision::NoCluster(_)
                | HttpDecision::NotCarriedOut(_) => None,
            };
            assert_eq!(found.as_deref(), expected, "{host}");
        }
    }
}

#[test]
fn the_most_specific_server_name_wins_and_of_equal_ones_the_first_route() {
    let route = |names: &[&str], to: &str| {
        Arc::new(TlsRoute {
            sni_hosts: names.iter().map(|name| (*name).to_owned()).collect(),
            nets: vec![],
            to: Split::one(cluster(to)),
        })
    };
    let mut tls: Vec<_> = HOSTS.iter().map(|host| route(&[host], host)).collect();
    tls.push(route(&["exact.example", "second.example"], "shadowed"));
    let table = table(PortRoutes {
        tls: tls.into(),
        ..PortRoutes::default()
    });
    let find = |name: Option<&str>| match table.tls(PolicyId(7), to(80), name, 0) {
        TlsDecision::Forward(cluster) => Some(cluster.id.host.to_string()),
        TlsDecision::UnlistedName | TlsDecision::NotCarriedOut(_) | TlsDecision::NoCluster(_) => {
            None
        }
    };
    // A canonical name has no star, because the parser rejects it before.
    for (host, expected) in CASES.iter().filter(|(host, _)| !host.contains('*')) {
        assert_eq!(find(Some(host)).as_deref(), *expected, "{host}");
    }
    assert_eq!(find(Some("second.example")).as_deref(), Some("shadowed"));
    assert_eq!(find(None), None);
}

#[test]
fn a_server_name_whose_route_leads_to_nothing_registered_is_told_from_an_unlisted_one() {
    let missing = Arc::new(Cluster {
        missing: true,
        ..Cluster::clone(&cluster("gone.example"))
    });
    let route = |names: &[&str], to: Arc<Cluster>| {
        Arc::new(TlsRoute {
            sni_hosts: names.iter().map(|name| (*name).to_owned()).collect(),
            nets: vec![],
            to: Split::one(to),
        })
    };
    let table = table(PortRoutes {
        tls: vec![
            route(&["a.example", "b.example"], missing),
            route(&["b.example"], cluster("b.example")),
        ]
        .into(),
        ..PortRoutes::default()
    });
    let told = |name| match table.tls(PolicyId(7), to(80), Some(name), 0) {
        TlsDecision::Forward(cluster) => format!("to {}", cluster.id.host),
        TlsDecision::NoCluster(cluster) => format!("no {}", cluster.id.host),
        TlsDecision::UnlistedName | TlsDecision::NotCarriedOut(_) => "unlisted".to_owned(),
    };
    assert_eq!(told("a.example"), "no gone.example");
    assert_eq!(told("b.example"), "to b.example");
    assert_eq!(told("c.example"), "unlisted");
}

#[test]
fn host_forms_that_istio_takes_for_one_host_find_it() {
    let table = table(PortRoutes {
        hosts: vec![virtual_host("exact.example")].into(),
        ..PortRoutes::default()
    });
    for authority in [
        "exact.example",
        "exact.example:80",
        "exact.example:12345",
        "EXACT.example",
        "exact.example.",
    ] {
        let head = head(authority);
        assert!(
            matches!(
                table.http(PolicyId(7), to(80), &head, 0),
                HttpDecision::Act(..)
            ),
            "{authority}"
        );
    }
}

#[test]
fn what_is_not_there_is_denied_and_a_host_without_routes_is_no_route() {
    let bare = Arc::new(VirtualHost {
        host: "exact.example".into(),
        nets: vec![],
        routes: vec![],
    });
    let table = table(PortRoutes {
        hosts: vec![bare].into(),
        ..PortRoutes::default()
    });
    let head = head("exact.example");
    assert!(matches!(
        table.http(PolicyId(7), to(80), &head, 0),
        HttpDecision::NoRoute
    ));
    assert!(
        matches!(
            table.http(PolicyId(8), to(80), &head, 0),
            HttpDecision::UnlistedHost
        ),
        "another policy"
    );
    assert!(
        matches!(
            table.http(PolicyId(7), to(81), &head, 0),
            HttpDecision::UnlistedHost
        ),
        "another port"
    );
    assert!(matches!(
        RouteTable::default().http(PolicyId(7), to(80), &head, 0),
        HttpDecision::UnlistedHost
    ));
    assert!(matches!(
        RouteTable::default().tls(PolicyId(7), to(80), Some("exact.example"), 0),
        TlsDecision::UnlistedName
    ));
}

#[test]
fn a_changed_copy_of_a_port_is_asked_by_its_own_names() {
    let first = table(PortRoutes {
        hosts: vec![virtual_host("a.example")].into(),
        ..PortRoutes::default()
    });
    assert!(matches!(
        first.http(PolicyId(7), to(80), &head("a.example"), 0),
        HttpDecision::Act(..)
    ));
    let mut port = first.port(PolicyId(7), 80).unwrap().clone();
    port.hosts = vec![virtual_host("0.example"), virtual_host("b.example")].into();
    let second = table(port);
    assert!(matches!(
        second.http(PolicyId(7), to(80), &head("a.example"), 0),
        HttpDecision::UnlistedHost
    ));
    assert!(matches!(
        second.http(PolicyId(7), to(80), &head("b.example"), 0),
        HttpDecision::Act(..)
    ));
}

#[test]
fn ten_thousand_hosts_on_one_port_are_each_found() {
    let hosts = (0..10_000).map(|number| virtual_host(&format!("h{number}.example")));
    let table = table(PortRoutes {
        hosts: hosts.collect::<Vec<_>>().into(),
        ..PortRoutes::default()
    });
    for number in 0..10_000 {
        let host = format!("h{number}.example");
        let head = head(&host);
        assert!(
            matches!(table.http(PolicyId(7), to(80), &head, 0), HttpDecision::Act(act) if *act.action.destinations().unwrap().cluster.id.host == *host)
        );
    }
}
