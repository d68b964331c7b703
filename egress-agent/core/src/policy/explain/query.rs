//! The answer for a DNS query: what the agent's DNS server does with it, and why.
//!
//! `dns::judge` decides; this phrases it. Nothing is asked, so bounds of names below wildcards are not in it.

use super::nearest::nearest_host;
use super::words::rule_of;
use super::{DeniedBy, Explanation};
use crate::dns::judge::{Decision, Denial, Endpoints, Forward, Local, Source, Upstream, judge};
use crate::dns::listing::Directory;
use crate::dns::query::Question;
use crate::dns::settings::QuerySettings;
use crate::istio::hosts;
use crate::policy::state::State;
use egress_ebpf::ids::PolicyId;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use std::sync::Arc;

/// The longest name as text, and the longest label (RFC 1035 §2.3.4).
const NAME: usize = 253;
const LABEL: usize = 63;

/// Why a text is not a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not a name that the DNS server judges.
    #[error(
        "{0:?} is not a name: give labels of letters, digits, `-` and `_`, with dots between them"
    )]
    Name(String),
    /// Not a type.
    #[error("{0:?} is not a type of DNS records: give A, AAAA, HTTPS, TXT, TYPE257")]
    Kind(String),
}

/// Reads a name and a type, as a user writes them.
///
/// # Errors
/// The name or the type is malformed.
pub fn parse_query(name: &str, kind: &str) -> Result<Question, QueryError> {
    let canonical = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let label = |l: &str| (1..=LABEL).contains(&l.len()) && l.bytes().all(plain);
    if canonical.len() > NAME || !canonical.split('.').all(label) {
        return Err(QueryError::Name(name.to_owned()));
    }
    let kind_of = || {
        let upper = kind.to_ascii_uppercase();
        let number = upper
            .strip_prefix("TYPE")
            .and_then(|n| n.parse::<u16>().ok());
        number.map(RecordType::from).or_else(|| upper.parse().ok())
    };
    Ok(Question {
        name: canonical.into(),
        kind: kind_of().ok_or_else(|| QueryError::Kind(kind.to_owned()))?,
    })
}

/// The most records of an answer that are named.
const RECORDS: usize = 16;

impl State {
    /// Explains a query of a workload with this policy. Names that are known only as targets of aliases in answers count
    /// as unlisted.
    pub fn explain_query(
        &mut self,
        policy: PolicyId,
        settings: &Arc<QuerySettings>,
        question: &Question,
    ) -> Explanation {
        let directory = Directory {
            routes: self.routes(),
            names: self.names(),
            settings: Arc::clone(settings),
            version: 0,
        };
        let listing = directory.listing(policy);
        let asked = format!("{} {}", question.name, question.kind);
        let mut denied = None;
        let mut lines = Vec::new();
        match judge(listing, question) {
            Decision::Forward(forward) => {
                lines.push(format!("allowed: {asked} is {}", asked_at(&forward)));
                if let Some(reason) = &forward.recorded {
                    lines.push(format!(
                        "the policy audits: it would be denied, because {reason}"
                    ));
                }
            }
            Decision::Local(local) => lines.extend(answered(&asked, &local)),
            Decision::Endpoints(endpoints) => {
                lines.extend(self.endpoints(&asked, question, &endpoints));
            }
            Decision::Deny(denial) => {
                lines.push(format!("denied: {asked}: {}", denial.reason));
                lines.push(denied_as(&denial));
                let view = self.policies.get(&policy).map(|policy| &policy.view);
                let unlisted = listing.services(&question.name).is_empty();
                lines.extend(
                    view.filter(|_| unlisted)
                        .and_then(|view| nearest_host(view, &question.name, 0)),
                );
                denied = Some(denial);
            }
        }
        let services = listing.services(&question.name);
        let rules = services
            .iter()
            .map(|s| format!("listed by {}", rule_of(s, None)));
        lines.extend(rules);
        if !self.settings().dns_intercept {
            lines.insert(0, OFF.to_owned());
        }
        Explanation {
            denied: denied.as_ref().map(|_| DeniedBy::Dns),
            reason: denied.map(|denial| denial.reason.code()),
            lines,
            flows: Vec::new(),
        }
    }

    fn endpoints(&self, asked: &str, question: &Question, endpoints: &Endpoints) -> Vec<String> {
        if let Some(local) = endpoints.answer(question.kind, &self.in_force()) {
            return answered(asked, &local);
        }
        let names: Vec<_> = endpoints.names.iter().map(ToString::to_string).collect();
        vec![
            format!(
                "allowed: {asked} is answered by the agent: {}",
                Source::Endpoints
            ),
            format!(
                "SERVFAIL for now: DNS gave no address for {} yet",
                names.join(", ")
            ),
        ]
    }
}

/// With `dns.intercept: off`.
const OFF: &str = "dns.intercept is off: the agent reads no queries, and workloads may send any to the servers in dns.servers; with auto:";

fn asked_at(forward: &Forward) -> String {
    match (forward.upstream, forward.services.first()) {
        (Upstream::Trusted, Some(first)) if hosts::is_wildcard(&first.host) => {
            format!(
                "asked at the servers in dns.servers; {} lists it, and how many names below it a workload may ask for is limited (dns.belowBurst)",
                first.host
            )
        }
        (Upstream::Trusted, _) => "asked at the servers in dns.servers; its addresses are allowed before the client gets them".to_owned(),
        (Upstream::Asked, _) => "asked at the server that the client chose, if that is in `internal` or in the cluster's ranges, otherwise at those in dns.servers".to_owned(),
    }
}

fn answered(asked: &str, local: &Local) -> Vec<String> {
    let what = match local.code {
        ResponseCode::NoError if local.records.is_empty() => "no records".to_owned(),
        ResponseCode::NoError => {
            let records = local.records.iter().take(RECORDS);
            let records: Vec<_> = records.map(ToString::to_string).collect();
            let more = local.records.len().saturating_sub(RECORDS);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            format!("{}{more}", records.join(", "))
        }
        code => code_word(code),
    };
    vec![format!(
        "allowed: {asked} is answered by the agent with {what}: {}",
        local.source
    )]
}

fn denied_as(denial: &Denial) -> String {
    let reason = denial.reason.code();
    match denial.code {
        ResponseCode::NoError => {
            format!("the agent answers without records: reason=\"{reason}\"")
        }
        code => format!("the agent answers {}: reason=\"{reason}\"", code_word(code)),
    }
}

/// A response code as tools spell it.
fn code_word(code: ResponseCode) -> String {
    match code {
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
