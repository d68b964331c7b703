//! Records and upstream messages for tests, and the answers that clients get for them.

use super::answer::{BadAnswer, Filtered, filter};
use super::bench::{RULES, directory, in_cluster, listing, question};
use super::content::Transport;
use super::judge::{Decision, Forward, judge};
use super::listing::Directory;
use super::query::{Question, read};
use crate::policy::leases::LeaseSettings;
use crate::policy::state::Settings;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

/// The listed name.
pub(super) const API: &str = "api.example.com.";

pub(super) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub(super) fn alias(from: &str, ttl: u32, to: &str) -> Record {
    Record::from_rdata(name(from), ttl, RData::CNAME(CNAME(name(to))))
}

pub(super) fn address(owner: &str, ttl: u32, ip: &str) -> Record {
    let data = match ip.parse().unwrap() {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    Record::from_rdata(name(owner), ttl, data)
}

pub(super) fn message(asked: &Question, answers: &[Record]) -> Message {
    let mut message = Message::new(1, MessageType::Response, OpCode::Query);
    message.add_query(Query::query(asked.fqdn().unwrap(), asked.kind));
    message.add_answers(answers.iter().cloned());
    message
}

pub(super) fn decided(directory: &Directory, asked: &Question) -> Forward {
    match judge(listing(directory), asked) {
        Decision::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

static DIRECTORY: LazyLock<Directory> =
    LazyLock::new(|| directory(RULES, Settings::default(), in_cluster()));

/// One question, and how its answers are filtered.
pub(super) struct Bench {
    pub(super) directory: &'static Directory,
    pub(super) leases: LeaseSettings,
    pub(super) asked: Question,
}

impl Bench {
    pub(super) fn new(kind: RecordType) -> Self {
        Self {
            directory: &DIRECTORY,
            leases: LeaseSettings::default(),
            asked: question("api.example.com", kind),
        }
    }

    pub(super) fn filter(&self, message: &Message) -> Result<Filtered, BadAnswer> {
        let forward = decided(self.directory, &self.asked);
        let bytes = message.to_vec().unwrap();
        filter(
            listing(self.directory),
            &self.leases,
            &self.asked,
            &forward,
            &bytes,
        )
    }

    pub(super) fn answers(&self, answers: &[Record]) -> Filtered {
        self.filter(&message(&self.asked, answers)).unwrap()
    }

    pub(super) fn reply(&self, filtered: &Filtered) -> Message {
        let mut query = Message::new(9, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(self.asked.fqdn().unwrap(), self.asked.kind));
        query.set_edns(Edns::new());
        let query = read(&query.to_vec().unwrap()).unwrap();
        let bytes = filtered
            .content
            .reply(&query.client, Transport::Tcp, Duration::ZERO);
        Message::from_vec(&bytes).unwrap()
    }

    pub(super) fn given(&self, answers: &[Record]) -> Vec<String> {
        let reply = self.reply(&self.answers(answers));
        let texts = reply
            .answers
            .iter()
            .map(|r| format!("{} {} {}", r.name, r.ttl, r.data));
        texts.collect()
    }
}
