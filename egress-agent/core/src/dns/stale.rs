//! The answer of last resort: if no name server answers, the addresses that the agent still leases for the name
//! (RFC 8767).
//!
//! Opens nothing: these addresses are in the kernel's tables for every workload that lists the name, and their leases do
//! not become longer.

use super::content::Content;
use super::decision::Endpoints;
use super::query::Question;
use crate::policy::leases::InForce;
use crate::registry::services::Service;
use hickory_proto::rr::RecordType;
use std::sync::Arc;

/// The answer from leases to a question. `services` list the name for the workload that asks. `None` for other types than A
/// and AAAA, and for a name whose addresses these services do not have by the agent's own questions.
pub fn stale(
    in_force: &InForce,
    question: &Question,
    services: &[Arc<Service>],
) -> Option<Content> {
    let mut lookups = services.iter().flat_map(|service| service.lookups());
    let is_own = lookups.any(|name| *name == question.name);
    if !is_own || !matches!(question.kind, RecordType::A | RecordType::AAAA) {
        return None;
    }
    let own = Endpoints {
        names: vec![Arc::clone(&question.name)],
        ..Endpoints::default()
    };
    let local = own.answer(question.kind, in_force)?;
    Some(Content::local(question, &local))
}

#[cfg(test)]
mod tests {
    use super::super::bench::{RULES, in_cluster, question};
    use super::super::content::Transport;
    use super::super::listing::Directory;
    use super::super::query::{Client, read};
    use super::*;
    use crate::istio::{Object, decode};
    use crate::policy::leases::Answer;
    use crate::policy::state::{Settings, State};
    use egress_ebpf::ids::PolicyId;
    use hickory_proto::op::{Message, ResponseCode};
    use std::time::{Duration, Instant};

    /// The stale answer to a question, for the state that has these answers for `api.example.com`.
    fn answered(addresses: &[&str], name: &str, kind: RecordType) -> Option<Message> {
        let objects = decode("rules.yaml", RULES).objects;
        let objects: Vec<Arc<Object>> = objects.into_iter().map(Arc::new).collect();
        let (mut state, now) = (State::new(Settings::default()), Instant::now());
        state.handle_rules(now, &objects);
        if !addresses.is_empty() {
            let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
            let ttl = Duration::from_secs(1);
            state.handle_answer(now, "api.example.com", Ok(Answer { addresses, ttl }));
        }
        drop(state.poll_ops());
        let asked = question(name, kind);
        let routes = state.routes();
        let directory = Directory {
            routes,
            names: state.names(),
            settings: Arc::new(in_cluster()),
            version: 0,
        };
        let services = directory.listing(PolicyId(0)).services(name);
        let services: Vec<_> = services.into_iter().cloned().collect();
        let unlisted = stale(&state.in_force(), &asked, &[]);
        assert!(unlisted.is_none(), "other workloads' leases");
        let content = stale(&state.in_force(), &asked, &services)?;
        let reply = content.reply(&client(&asked), Transport::Udp, Duration::ZERO);
        Some(Message::from_vec(&reply).unwrap())
    }

    /// The client of this question.
    fn client(asked: &Question) -> Client {
        let mut message = Message::query();
        message.add_query(hickory_proto::op::Query::query(
            asked.fqdn().unwrap(),
            asked.kind,
        ));
        read(&message.to_vec().unwrap()).unwrap().client
    }

    fn shown(message: &Message) -> Vec<String> {
        let records = message.answers.iter();
        records.map(|r| format!("{} {}", r.ttl, r.data)).collect()
    }

    #[test]
    fn a_name_that_is_leased_has_its_addresses_of_the_type() {
        let both = ["203.0.113.1", "2001:db8::1"];
        let v4 = answered(&both, "api.example.com", RecordType::A).unwrap();
        assert_eq!(shown(&v4), ["30 203.0.113.1"]);
        let v6 = answered(&both, "api.example.com", RecordType::AAAA).unwrap();
        assert_eq!(shown(&v6), ["30 2001:db8::1"]);
        let none = answered(&both[..1], "api.example.com", RecordType::AAAA).unwrap();
        let code = none.metadata.response_code;
        assert_eq!((code, shown(&none)), (ResponseCode::NoError, vec![]));
    }

    #[test]
    fn a_name_without_leases_and_another_type_have_no_such_answer() {
        let one = ["203.0.113.1"];
        assert!(answered(&[], "api.example.com", RecordType::A).is_none());
        assert!(answered(&one, "api.example.com", RecordType::HTTPS).is_none());
        // Each workload learns these names by itself.
        assert!(answered(&one, "a.wild.example", RecordType::A).is_none());
    }
}
