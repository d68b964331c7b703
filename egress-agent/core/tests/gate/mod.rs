//! The whole pure half as one gate: rules and answers in, verdicts out. The kernel is `decide()`
//! over maps that the state's own writes filled; the proxy is its decisions.

#[allow(dead_code, reason = "not every test file makes rules")]
pub mod documents;
#[allow(dead_code, reason = "not every test file makes rules")]
pub mod random;

use egress_core::istio::{Object, decode};
use egress_core::policy::diff::TableOp;
use egress_core::policy::leases::Answer;
use egress_core::policy::state::{Settings, State};
use egress_core::routing::{
    Cluster, HttpDecision, PolicyRoutes, RequestHead, Sniffed, Step, TlsDecision,
};
use egress_ebpf::abi::{Policy, proto};
use egress_ebpf::decide::{Destination, decide};
use egress_ebpf::ids::PolicyId;
use egress_ebpf::model::Model;
use egress_ebpf::table::Entry;
use egress_ebpf::verdict::Verdict;
use http::HeaderMap;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The kernel's maps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kernel {
    tables: Model,
    policies: BTreeMap<PolicyId, Policy>,
}

impl Kernel {
    fn apply(&mut self, op: &TableOp) {
        match *op {
            TableOp::Put(table, entry) => self.tables.put(table, entry),
            TableOp::Delete(table, key) => assert!(self.tables.delete(table, key)),
            TableOp::SetPolicy(id, policy) => drop(self.policies.insert(id, policy)),
            TableOp::DeletePolicy(id) => assert!(self.policies.remove(&id).is_some()),
            TableOp::DropTable(_) => panic!("nothing was adopted"),
        }
    }

    /// Entries of a policy without the ids of table and generation.
    #[allow(dead_code, reason = "not every test file compares tables")]
    pub fn content(&self, policy: PolicyId) -> Vec<String> {
        let Some(p) = self.policies.get(&policy) else {
            return Vec::new();
        };
        let shown = |e: Entry| {
            let (ip, port, proto) = (IpAddr::from(e.key.addr()), e.key.port(), e.key.proto());
            format!("{ip}/{} {port} {proto} {}", e.key.bits(), e.action)
        };
        let mut all: Vec<_> = self.tables.entries(p.table).map(shown).collect();
        all.push(format!("flags {}", p.flags));
        all.sort();
        all
    }
}

/// What a client says first.
#[allow(dead_code, reason = "not every test file speaks")]
#[derive(Clone, Copy, Debug)]
pub enum Spoken<'a> {
    /// A request with this Host.
    Http(&'a str),
    /// A hello with this server name.
    Tls(Option<&'a str>),
    /// Anything else.
    Bytes,
}

/// The verdict on a flow.
#[allow(dead_code, reason = "not every test file asks for flows of this form")]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The kernel denies it.
    Refused,
    /// The proxy closes it.
    Closed,
    /// The proxy answers with this status.
    Status(u16),
    /// It goes to the address that was dialled, as if there were no gate.
    Original,
    /// It goes to a service: `HOST:PORT`.
    To(String),
}

/// See the module.
pub struct Gate {
    pub state: State,
    pub now: Instant,
    pub kernel: Kernel,
}

#[allow(dead_code, reason = "not every test file has rules as text")]
pub fn objects(text: &str) -> Vec<Arc<Object>> {
    let decoded = decode("test.yaml", text);
    assert!(!decoded.is_broken(), "{:?}\n{text}", decoded.messages);
    decoded.objects.into_iter().map(Arc::new).collect()
}

impl Gate {
    #[allow(dead_code, reason = "not every test file starts with rules as text")]
    pub fn new(settings: Settings, rules: &str) -> Self {
        let mut gate = Self::without_rules(settings);
        gate.rules(&objects(rules));
        gate
    }

    pub fn without_rules(settings: Settings) -> Self {
        Self {
            state: State::new(settings),
            now: Instant::now(),
            kernel: Kernel::default(),
        }
    }

    pub fn rules(&mut self, objects: &[Arc<Object>]) {
        self.state.handle_rules(self.now, objects);
        self.write();
    }

    #[allow(dead_code, reason = "not every test file resolves names")]
    pub fn answer(&mut self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let ttl = Duration::from_mins(1);
        self.state
            .handle_answer(self.now, name, Ok(Answer { addresses, ttl }));
        self.write();
    }

    pub fn write(&mut self) {
        for op in self.state.poll_ops() {
            self.kernel.apply(&op);
        }
    }

    #[allow(dead_code, reason = "not every test file compares routes")]
    pub fn routes(&mut self, policy: PolicyId) -> Arc<PolicyRoutes> {
        self.state.routes().policies[&policy].clone()
    }

    /// The kernel's verdict on a destination.
    pub fn verdict(&self, policy: PolicyId, to: SocketAddr, proto: u8) -> Verdict {
        let entry = self.kernel.policies.get(&policy);
        let entry = entry.copied().unwrap_or_default();
        let dialled = Destination {
            addr: to.ip().into(),
            port: to.port(),
            proto,
        };
        decide(&self.kernel.tables, &entry, &dialled, || Some(15001))
    }

    /// The verdict on a TCP flow.
    #[allow(dead_code, reason = "not every test file asks for flows of this form")]
    pub fn flow(&mut self, policy: PolicyId, to: SocketAddr, spoken: Spoken<'_>) -> Outcome {
        match self.verdict(policy, to, proto::TCP) {
            Verdict::Allow => Outcome::Original,
            Verdict::Proxy => self.proxied(policy, to, spoken),
            // No policy here intercepts DNS.
            Verdict::Deny(_) | Verdict::Dns => Outcome::Refused,
        }
    }

    #[allow(dead_code, reason = "not every test file asks for flows of this form")]
    fn proxied(&mut self, policy: PolicyId, to: SocketAddr, spoken: Spoken<'_>) -> Outcome {
        let routes = self.state.routes();
        let step = routes.reading(policy, to, 0).first_bytes(match spoken {
            Spoken::Http(_) => Sniffed::Http11,
            Spoken::Tls(_) => Sniffed::Tls,
            Spoken::Bytes => Sniffed::Unknown,
        });
        match (step, spoken) {
            (Step::HttpIfListed(cluster), Spoken::Http(host))
                if !routes.lists_host(policy, to, host) =>
            {
                went(&cluster)
            }
            (Step::Http | Step::AnyHttp | Step::HttpIfListed(_), Spoken::Http(authority)) => {
                let head = RequestHead {
                    authority,
                    method: "GET",
                    path: "/",
                    headers: &HeaderMap::new(),
                };
                match routes.http(policy, to, &head, 0) {
                    HttpDecision::Act(act) => {
                        let to = act.action.destinations().expect("every route forwards");
                        went(&to.cluster)
                    }
                    HttpDecision::UnlistedHost => Outcome::Status(502),
                    HttpDecision::NoRoute => Outcome::Status(404),
                    HttpDecision::NoCluster(_) | HttpDecision::NotCarriedOut(_) => {
                        Outcome::Status(503)
                    }
                }
            }
            (
                Step::Http | Step::Http2 | Step::AnyHttp | Step::HttpIfListed(_) | Step::NotHttp,
                _,
            ) => Outcome::Status(400),
            (Step::UpgradeRequired, _) => Outcome::Status(426),
            (Step::Tls(otherwise), Spoken::Tls(name)) => {
                match (routes.tls(policy, to, name, 0), otherwise, name) {
                    (_, Some(cluster), None) | (TlsDecision::Forward(cluster), ..) => {
                        went(&cluster)
                    }
                    (
                        TlsDecision::UnlistedName
                        | TlsDecision::NotCarriedOut(_)
                        | TlsDecision::NoCluster(_),
                        ..,
                    ) => Outcome::Closed,
                }
            }
            (Step::Tls(Some(cluster)) | Step::Relay(cluster), _) => went(&cluster),
            (Step::Tls(None) | Step::Deny(_) | Step::Close, _) => Outcome::Closed,
        }
    }
}

#[allow(dead_code, reason = "not every test file asks for flows of this form")]
fn went(cluster: &Cluster) -> Outcome {
    match &*cluster.id.host {
        "PassthroughCluster" => Outcome::Original,
        host => Outcome::To(format!("{host}:{}", cluster.id.port)),
    }
}
