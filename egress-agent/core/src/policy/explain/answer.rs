//! The answer to a question, as data.

use crate::policy::tables::Transport;
use std::net::SocketAddr;

/// Who denies a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedBy {
    /// The agent's DNS server does not answer the query with records.
    Dns,
    /// The call fails, with EPERM unless the settings say otherwise.
    Kernel,
    /// The connection is made and closed.
    Closed,
    /// The request is answered with this status.
    Status(u16),
}

/// A flow that was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What is dialled.
    pub to: SocketAddr,
    /// The transport.
    pub transport: Transport,
    /// What the client speaks.
    pub speaks: Speaks,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1, with the question's host in the Host header.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS, with the question's host as server name unless it is an address.
    Tls,
    /// Something else.
    Bytes,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Who denies the flow; `None` if it is allowed. A policy that audits still lets it pass.
    pub denied: Option<DeniedBy>,
    /// The code of the reason, as the log line of the denial has it; `None` if it is allowed.
    pub reason: Option<&'static str>,
    /// The verdict and its reasons, a line each.
    pub lines: Vec<String>,
    /// The flows that were judged: one to each address of a name; to an address by TCP and, without a
    /// scheme, by UDP.
    pub flows: Vec<Flow>,
}

impl Explanation {
    /// Whether the rules let the flow through.
    pub const fn allowed(&self) -> bool {
        self.denied.is_none()
    }
}
