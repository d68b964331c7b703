//! What a client asks a running agent on the admin socket, and the answer to `explain`. The answer to
//! `status` is a [`Status`](super::status::Status).
//!
//! A connection carries one request and one answer, each a JSON document; the sender closes its direction
//! after it. An empty request asks for the status.

use egress_core::dns::query::Question as Query;
use egress_core::policy::explain::{
    DeniedBy, Explanation, Flow, QueryError, Question, QuestionError, Speaks, parse_query,
};
use egress_core::policy::tables::Transport;
use egress_ebpf::ids::CgroupId;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// How long an exchange may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// What a client asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// [`Status`](super::status::Status).
    #[default]
    Status,
    /// [`Explained`].
    Explain(Asked),
    /// [`RuleState`](crate::applied::RuleState) of the object with this name, such as `serviceentry/shop/a`.
    Rule(String),
}

/// A destination that is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Asked {
    /// HOST:PORT, IP:PORT or URL.
    pub destination: String,
    /// Method of the HTTP request; empty means GET.
    pub method: String,
    /// Headers of the HTTP request, as `NAME: VALUE`.
    pub headers: Vec<String>,
    /// Cgroup ids of the workload that would dial it: its own, then those of the cgroups above.
    /// Empty: a workload that no entry matches.
    pub workload: Vec<CgroupId>,
    /// A DNS query, instead of a destination.
    pub query: Option<Queried>,
}

/// A DNS query that is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Queried {
    /// Its name.
    pub name: String,
    /// Its type, as a word or as TYPE and a number.
    pub kind: String,
}

impl Queried {
    /// The query in the engine's form.
    pub fn question(&self) -> Result<Query, QueryError> {
        parse_query(&self.name, &self.kind)
    }
}

impl Asked {
    /// The question in the engine's form.
    pub fn question(&self) -> Result<Question, QuestionError> {
        let mut question = Question::parse(&self.destination)?;
        if !self.method.is_empty() {
            question = question.with_method(&self.method)?;
        }
        self.headers
            .iter()
            .try_fold(question, |question, header| question.with_header(header))
    }
}

/// The verdict on a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Whether a flow gets through.
    pub allowed: bool,
    /// What denies it: `dns` (the agent's DNS server), `kernel` (the call fails), `proxy` (the connection is closed), or the HTTP status
    /// that the proxy answers.
    pub denied_by: Option<String>,
    /// The code of the reason, as the log line of the denial has it.
    #[serde(default)]
    pub reason: Option<String>,
    /// The verdict and its reasons, a line each.
    pub lines: Vec<String>,
    /// The flows that were judged.
    #[serde(default)]
    pub flows: Vec<JudgedFlow>,
}

/// A flow that was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JudgedFlow {
    /// The dialled address.
    pub to: SocketAddr,
    /// `tcp` or `udp`.
    pub transport: String,
    /// `http`, `http2`, `tls` or `bytes`.
    pub speaks: String,
}

impl From<Flow> for JudgedFlow {
    fn from(flow: Flow) -> Self {
        let transport = match flow.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let speaks = match flow.speaks {
            Speaks::Http => "http",
            Speaks::Http2 => "http2",
            Speaks::Tls => "tls",
            Speaks::Bytes => "bytes",
        };
        Self {
            to: flow.to,
            transport: transport.to_owned(),
            speaks: speaks.to_owned(),
        }
    }
}

impl From<Explanation> for Explained {
    fn from(explanation: Explanation) -> Self {
        let by = |denied| match denied {
            DeniedBy::Dns => "dns".to_owned(),
            DeniedBy::Kernel => "kernel".to_owned(),
            DeniedBy::Closed => "proxy".to_owned(),
            DeniedBy::Status(status) => status.to_string(),
        };
        Self {
            allowed: explanation.allowed(),
            denied_by: explanation.denied.map(by),
            reason: explanation.reason.map(str::to_owned),
            lines: explanation.lines,
            flows: explanation.flows.into_iter().map(Into::into).collect(),
        }
    }
}
