//! A state machine with a shell around it: what its ops have written, and answers for questions.

use crate::istio::{Object, decode};
use crate::policy::diff::TableOp;
use crate::policy::leases::Answer;
use crate::policy::state::{Settings, State};
use crate::routing::{HttpDecision, RequestHead, TlsDecision};
use crate::traffic::HttpAction;
use egress_ebpf::abi::action;
use http::HeaderMap;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of rule files.
pub(super) fn objects(texts: &[&str]) -> Vec<Arc<Object>> {
    let decoded = texts.iter().map(|t| decode("test.yaml", t));
    decoded
        .flat_map(|d| {
            assert!(!d.is_broken(), "{:?}", d.messages);
            d.objects
        })
        .map(Arc::new)
        .collect()
}

/// Where a workload dialled.
pub(super) fn dialled(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 80], port))
}

/// A state, the map that its ops have written, and answers for every question.
pub(super) struct Bench {
    pub(super) state: State,
    pub(super) now: Instant,
    map: BTreeSet<(u32, String)>,
}

impl Bench {
    pub(super) fn new(settings: Settings, texts: &[&str]) -> Self {
        let now = Instant::now();
        let mut bench = Self {
            state: State::new(settings),
            now,
            map: BTreeSet::new(),
        };
        bench.rules(texts);
        bench
    }

    pub(super) fn rules(&mut self, texts: &[&str]) {
        self.state.handle_rules(self.now, &objects(texts));
        self.write();
    }

    pub(super) fn answer(&mut self, name: &str, ips: &[&str]) {
        let addresses = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let answer = Answer {
            addresses,
            ttl: Duration::from_mins(1),
        };
        self.state.handle_answer(self.now, name, Ok(answer));
        self.write();
    }

    pub(super) fn write(&mut self) {
        for op in self.state.poll_ops() {
            let word = |a| if a == action::PROXY { "proxy" } else { "allow" };
            let proto = |p| if p == 17 { "/udp" } else { "" };
            match op {
                TableOp::PutExact(k, r) => {
                    let ip = IpAddr::from(k.addr);
                    let key = format!("{ip} {}{} ", k.port, proto(k.proto));
                    self.map
                        .retain(|(t, e)| *t != k.table || !e.starts_with(&key));
                    self.map.insert((k.table, key + word(r.action)));
                }
                TableOp::DeleteExact(k) => {
                    let key = format!("{} {}{} ", IpAddr::from(k.addr), k.port, proto(k.proto));
                    self.map
                        .retain(|(t, e)| *t != k.table || !e.starts_with(&key));
                }
                TableOp::PutPrefix { bits, data, rule } => {
                    let net = format!("{}/{}", IpAddr::from(data.addr), bits - 64);
                    let entry = format!("{net} {}{} ", data.port, proto(data.proto));
                    self.map.insert((data.table, entry + word(rule.action)));
                }
                TableOp::DeletePrefix { bits, data } => {
                    let net = format!("{}/{}", IpAddr::from(data.addr), bits - 64);
                    let key = format!("{net} {}{} ", data.port, proto(data.proto));
                    self.map
                        .retain(|(t, e)| *t != data.table || !e.starts_with(&key));
                }
                TableOp::SetPolicy(..) | TableOp::DeletePolicy(_) => {}
                TableOp::DropTable(_) => panic!("nothing was adopted"),
            }
        }
    }

    pub(super) fn entries(&self) -> Vec<&str> {
        self.map.iter().map(|(_, e)| e.as_str()).collect()
    }

    pub(super) fn http(&mut self, port: u16, authority: &str) -> HttpDecision {
        let head = RequestHead {
            authority,
            method: "GET",
            path: "/",
            headers: &HeaderMap::new(),
        };
        self.state.routes().http(0, dialled(port), &head, 0)
    }

    pub(super) fn endpoints(&mut self, port: u16, authority: &str) -> Option<Vec<String>> {
        match self.http(port, authority) {
            HttpDecision::Act(HttpAction::Forward(c), _) => {
                Some(c.endpoints.iter().map(SocketAddr::to_string).collect())
            }
            HttpDecision::NoRoute
            | HttpDecision::UnlistedHost
            | HttpDecision::NoCluster(_)
            | HttpDecision::NotCarriedOut(_) => None,
        }
    }

    pub(super) fn tls(&mut self, port: u16, sni: &str) -> Option<String> {
        match self.state.routes().tls(0, dialled(port), Some(sni), 0) {
            TlsDecision::Forward(c) => Some(format!("{}:{}", c.id.host, c.id.port)),
            TlsDecision::UnlistedName
            | TlsDecision::NotCarriedOut(_)
            | TlsDecision::NoCluster(_) => None,
        }
    }
}
