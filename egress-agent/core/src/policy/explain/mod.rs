//! Why a destination is allowed or denied, for people: the gate's own decision and the rule behind it, or the nearest
//! rule and the field in which it differs.
//!
//! `gate` gets the decision of kernel and proxy, `words` phrases it. Decides nothing itself.

mod address;
mod addresses;
mod answer;
mod asked;
mod gate;
mod name;
mod nearest;
mod query;
mod question;
mod words;

pub use answer::{DeniedBy, Explanation, Flow, Speaks};
pub use query::{QueryError, parse_query};
pub use question::{Dialled, Question, QuestionError, Scheme};

use super::state::State;
use asked::Asked;
use egress_ebpf::ids::PolicyId;
use egress_ebpf::verdict::Reason;
use gate::Gate;

impl State {
    /// Explains a flow under a policy, with the present addresses. Without a scheme, a name is asked for with the
    /// protocol of its port, and an address with both TCP and UDP.
    pub fn explain(&mut self, policy: PolicyId, question: &Question) -> Explanation {
        let routes = self.routes();
        let Some(state) = self.policies.get(&policy) else {
            return Explanation {
                denied: Some(DeniedBy::Kernel),
                reason: Some(Reason::State.word()),
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
                dns: self.settings().dns_intercept,
            },
        };
        let mut explanation = match &question.to {
            Dialled::Name(host, port) => asked.name(host, *port),
            Dialled::Address(to) => asked.address(*to),
        };
        if !explanation.allowed() && state.audit {
            let line = "the policy audits: the flow still passes, and is logged as would_deny";
            explanation.lines.push(line.to_owned());
        }
        explanation
    }
}

#[cfg(test)]
mod denied_tests;
#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod tests;
