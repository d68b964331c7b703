//! The decisions: Host or SNI in, a destination or a refusal out.

use super::{Cluster, HttpRoute, PortRoutes, RouteTable};
use crate::http::authority::parse_authority;
use std::sync::Arc;

/// What a route match looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The Host header or `:authority`, as sent, port included.
    pub authority: &'a str,
    /// Method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
}

/// What happens to one HTTP request.
#[derive(Clone, Debug)]
pub enum HttpDecision {
    /// Forwarded.
    Forward(Arc<Cluster>, HttpRoute),
    /// The Host is not listed on this port: 502 with an empty body (Istio's `block_all`).
    UnlistedHost,
    /// Listed, but no route matches: 404 with an empty body, flag NR.
    NoRoute,
}

/// What happens to one TLS connection.
#[derive(Clone, Debug)]
pub enum TlsDecision {
    /// Forwarded untouched.
    Forward(Arc<Cluster>),
    /// The name is not listed on this port: closed.
    UnlistedName,
}

impl RouteTable {
    /// The routes of a policy on a dialled port; `None` means that nothing may pass there.
    pub fn port(&self, policy: u32, port: u16) -> Option<&PortRoutes> {
        self.policies.get(&policy)?.ports.get(&port)
    }

    /// Decides one HTTP request by its Host.
    pub fn http(&self, policy: u32, port: u16, head: &RequestHead<'_>) -> HttpDecision {
        let Some(routes) = self.port(policy, port) else {
            return HttpDecision::UnlistedHost;
        };
        let Ok(host) = parse_authority(head.authority) else {
            return HttpDecision::UnlistedHost;
        };
        let Some(at) = routes.find_host(host.as_str()) else {
            return HttpDecision::UnlistedHost;
        };
        match routes.hosts[at].routes.first() {
            Some(route) => HttpDecision::Forward(Arc::clone(&route.cluster), route.clone()),
            None => HttpDecision::NoRoute,
        }
    }

    /// Decides one TLS connection by its server name in canonical form.
    pub fn tls(&self, policy: u32, port: u16, sni: Option<&str>) -> TlsDecision {
        let found = self
            .port(policy, port)
            .zip(sni)
            .and_then(|(routes, name)| Some(&routes.tls[routes.find_tls(name)?]));
        match found {
            Some(route) => TlsDecision::Forward(Arc::clone(&route.cluster)),
            None => TlsDecision::UnlistedName,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{PolicyRoutes, TlsRoute, VirtualHost};
    use std::collections::BTreeMap;

    fn cluster(host: &str) -> Arc<Cluster> {
        Arc::new(Cluster {
            host: host.into(),
            port: 80,
            endpoints: vec![],
            original_dst: None,
        })
    }

    fn virtual_host(host: &str) -> VirtualHost {
        VirtualHost {
            host: host.into(),
            routes: vec![HttpRoute {
                cluster: cluster(host),
                timeout: None,
            }],
        }
    }

    fn table(port: PortRoutes) -> RouteTable {
        let ports = BTreeMap::from([(80, port)]);
        RouteTable {
            generation: 1,
            policies: BTreeMap::from([(7, Arc::new(PolicyRoutes { ports }))]),
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
        let mut hosts: Vec<VirtualHost> = HOSTS.iter().map(|host| virtual_host(host)).collect();
        for _ in 0..2 {
            hosts.reverse();
            let table = table(PortRoutes {
                hosts: hosts.clone(),
                ..PortRoutes::default()
            });
            for (host, expected) in CASES {
                let head = RequestHead {
                    authority: host,
                    method: "GET",
                    path: "/",
                };
                let found = match table.http(7, 80, &head) {
                    HttpDecision::Forward(cluster, _) => Some(cluster.host.clone()),
                    HttpDecision::UnlistedHost | HttpDecision::NoRoute => None,
                };
                assert_eq!(found.as_deref(), expected, "{host}");
            }
        }
    }

    #[test]
    fn the_most_specific_server_name_wins_and_of_equal_ones_the_first_route() {
        let route = |names: &[&str], to: &str| TlsRoute {
            sni_hosts: names.iter().map(|name| (*name).to_owned()).collect(),
            cluster: cluster(to),
        };
        let mut tls: Vec<TlsRoute> = HOSTS.iter().map(|host| route(&[host], host)).collect();
        tls.push(route(&["exact.example", "second.example"], "shadowed"));
        let table = table(PortRoutes {
            tls,
            ..PortRoutes::default()
        });
        let find = |name: Option<&str>| match table.tls(7, 80, name) {
            TlsDecision::Forward(cluster) => Some(cluster.host.clone()),
            TlsDecision::UnlistedName => None,
        };
        // A canonical name has no star; the parser refuses it before this place.
        for (host, expected) in CASES.iter().filter(|(host, _)| !host.contains('*')) {
            assert_eq!(find(Some(host)).as_deref(), *expected, "{host}");
        }
        assert_eq!(find(Some("second.example")).as_deref(), Some("shadowed"));
        assert_eq!(find(None), None);
    }

    #[test]
    fn host_forms_that_istio_takes_for_one_host_find_it() {
        let table = table(PortRoutes {
            hosts: vec![virtual_host("exact.example")],
            ..PortRoutes::default()
        });
        for authority in [
            "exact.example",
            "exact.example:80",
            "exact.example:12345",
            "EXACT.example",
            "exact.example.",
        ] {
            let head = RequestHead {
                authority,
                method: "GET",
                path: "/",
            };
            assert!(
                matches!(table.http(7, 80, &head), HttpDecision::Forward(..)),
                "{authority}"
            );
        }
    }

    #[test]
    fn what_is_not_there_is_denied_and_a_host_without_routes_is_no_route() {
        let bare = VirtualHost {
            host: "exact.example".into(),
            routes: vec![],
        };
        let table = table(PortRoutes {
            hosts: vec![bare],
            ..PortRoutes::default()
        });
        let head = RequestHead {
            authority: "exact.example",
            method: "GET",
            path: "/",
        };
        assert!(matches!(table.http(7, 80, &head), HttpDecision::NoRoute));
        assert!(
            matches!(table.http(8, 80, &head), HttpDecision::UnlistedHost),
            "another policy"
        );
        assert!(
            matches!(table.http(7, 81, &head), HttpDecision::UnlistedHost),
            "another port"
        );
        assert!(matches!(
            RouteTable::default().http(7, 80, &head),
            HttpDecision::UnlistedHost
        ));
        assert!(matches!(
            RouteTable::default().tls(7, 80, Some("exact.example")),
            TlsDecision::UnlistedName
        ));
    }

    #[test]
    fn a_changed_copy_of_a_port_is_asked_by_its_own_names() {
        let first = table(PortRoutes {
            hosts: vec![virtual_host("a.example")],
            ..PortRoutes::default()
        });
        let head = |authority| RequestHead {
            authority,
            method: "GET",
            path: "/",
        };
        assert!(matches!(
            first.http(7, 80, &head("a.example")),
            HttpDecision::Forward(..)
        ));
        let mut port = first.port(7, 80).unwrap().clone();
        port.hosts = vec![virtual_host("0.example"), virtual_host("b.example")];
        let second = table(port);
        assert!(matches!(
            second.http(7, 80, &head("a.example")),
            HttpDecision::UnlistedHost
        ));
        assert!(matches!(
            second.http(7, 80, &head("b.example")),
            HttpDecision::Forward(..)
        ));
    }

    #[test]
    fn ten_thousand_hosts_on_one_port_are_each_found() {
        let hosts = (0..10_000)
            .map(|number| virtual_host(&format!("h{number}.example")))
            .collect();
        let table = table(PortRoutes {
            hosts,
            ..PortRoutes::default()
        });
        for number in 0..10_000 {
            let host = format!("h{number}.example");
            let head = RequestHead {
                authority: &host,
                method: "GET",
                path: "/",
            };
            assert!(
                matches!(table.http(7, 80, &head), HttpDecision::Forward(cluster, _) if cluster.host == host)
            );
        }
    }
}
