//! A state machine with a simple shell: it applies the writes and answers the questions.

use crate::istio::{Object, decode};
use crate::policy::diff::TableOp;
use crate::policy::leases::Answer;
use crate::policy::state::{Settings, State};
use crate::routing::{HttpDecision, RequestHead, TlsDecision};
use egress_ebpf::abi::action;
use egress_ebpf::ids::{PolicyId, TableId};
use egress_ebpf::table::Key;
use http::HeaderMap;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The objects of rule files.
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

/// The destination that a workload dialled.
pub(super) fn dialled(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 80], port))
}

/// A state, the map that its writes have filled, and the answers to its questions.
pub(super) struct Bench {
    pub(super) state: State,
    pub(super) now: Instant,
    map: BTreeSet<(TableId, String)>,
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
            match op {
                TableOp::Put(table, entry) => {
                    self.take_out(table, &shown(&entry.key));
                    let line = shown(&entry.key) + word(entry.action);
                    self.map.insert((table, line));
                }
                TableOp::Delete(table, key) => self.take_out(table, &shown(&key)),
                TableOp::SetPolicy(..) | TableOp::DeletePolicy(_) => {}
                TableOp::DropTable(_) => panic!("nothing was adopted"),
            }
        }
    }

    fn take_out(&mut self, table: TableId, key: &str) {
        self.map.retain(|(t, e)| *t != table || !e.starts_with(key));
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
        self.state
            .routes()
            .http(PolicyId(0), dialled(port), &head, 0)
    }

    pub(super) fn endpoints(&mut self, port: u16, authority: &str) -> Option<Vec<String>> {
        match self.http(port, authority) {
            HttpDecision::Act(act) => {
                let to = act.action.destinations()?;
                Some(
                    to.cluster
                        .endpoints
                        .iter()
                        .map(SocketAddr::to_string)
                        .collect(),
                )
            }
            HttpDecision::NoRoute
            | HttpDecision::UnlistedHost
            | HttpDecision::NoCluster(_)
            | HttpDecision::NotCarriedOut(_) => None,
        }
    }

    pub(super) fn tls(&mut self, port: u16, sni: &str) -> Option<String> {
        match self
            .state
            .routes()
            .tls(PolicyId(0), dialled(port), Some(sni), 0)
        {
            TlsDecision::Forward(c) => Some(format!("{}:{}", c.id.host, c.id.port)),
            TlsDecision::UnlistedName
            | TlsDecision::NotCarriedOut(_)
            | TlsDecision::NoCluster(_) => None,
        }
    }
}

/// `ADDRESS PORT ` or `NETWORK/BITS PORT `, bits of 128.
fn shown(key: &Key) -> String {
    let proto = if key.proto() == 17 { "/udp" } else { "" };
    let (ip, port) = (IpAddr::from(key.addr()), key.port());
    if key.is_exact() {
        format!("{ip} {port}{proto} ")
    } else {
        format!("{ip}/{} {port}{proto} ", key.bits())
    }
}
