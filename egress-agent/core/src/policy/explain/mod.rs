//! Why a destination is allowed or denied, for people: the gate's own decision, the rule that gave
//! it, or the nearest one and the field in which it differs.
//!
//! `gate` asks what the kernel and the proxy decide, `words` says it. Decides nothing.

mod address;
mod addresses;
mod asked;
mod gate;
mod name;
mod nearest;
mod question;
mod words;

pub use question::{Dialled, Question, QuestionError, Scheme};

use super::state::State;
use super::tables::Transport;
use asked::Asked;
use gate::Gate;
use std::net::SocketAddr;

/// Who denies a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedBy {
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
    /// By which transport.
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
    /// Who denies the flow; `None` if it is allowed. A policy that audits lets it through all the
    /// same.
    pub denied: Option<DeniedBy>,
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

impl State {
    /// Explains a flow under a policy, with the addresses that are known at the moment. Without a
    /// scheme a name is asked for by the protocol of its port, an address by TCP and UDP alike.
    pub fn explain(&mut self, policy: u32, question: &Question) -> Explanation {
        let routes = self.routes();
        let Some(state) = self.policies.get(&policy) else {
            return Explanation {
                denied: Some(DeniedBy::Kernel),
                lines: vec![format!("denied: there is no policy {policy}")],
                flows: Vec::new(),
            };
        };
        let asked = Asked {
            state: self,
            question,
            gate: Gate {
                id: policy,
                policy: state,
                routes: &routes,
                proxy_port: self.settings().proxy_port,
            },
        };
        let mut explanation = match &question.to {
            Dialled::Name(host, port) => asked.name(host, *port),
            Dialled::Address(to) => asked.address(*to),
        };
        if !explanation.allowed() && state.audit {
            let line =
                "the policy audits: the flow passes all the same, and is logged as would_deny";
            explanation.lines.push(line.to_owned());
        }
        explanation
    }
}

#[cfg(test)]
mod denied_tests;
#[cfg(test)]
mod tests;
