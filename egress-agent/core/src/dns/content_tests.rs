//! Replies as clients get them, read by hickory.

use super::super::bench::question;
use super::super::decision::Source;
use super::super::query::{Client, read};
use super::{Content, Local, Transport};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::time::Duration;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn client(text: &str, edns: Option<u16>) -> Client {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), RecordType::A));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    read(&message.to_vec().unwrap()).unwrap().client
}

fn many(count: u8) -> Content {
    let own = name("www.example.com.");
    let alias = RData::CNAME(CNAME(name("Edge.cdn.example.")));
    let mut records = vec![Record::from_rdata(own.clone(), 300, alias)];
    let address = |n| {
        let data = RData::A(A::new(203, 0, 113, n));
        Record::from_rdata(name("Edge.cdn.example."), 60, data)
    };
    records.extend((0..count).map(address));
    Content::of(&own, ResponseCode::NoError, &records, &[])
}

fn reply(content: &Content, client: &Client, transport: Transport, age: u64) -> Message {
    let bytes = content.reply(client, transport, Duration::from_secs(age));
    if transport == Transport::Udp {
        assert!(bytes.len() <= client.udp_size());
    }
    Message::from_vec(&bytes).unwrap()
}

#[test]
fn id_question_and_flags_are_the_clients() {
    let client = client("wWw.Example.COM.", Some(4096));
    let reply = reply(&many(3), &client, Transport::Udp, 0);
    let head = reply.metadata;
    assert_eq!(
        (head.id, head.recursion_desired, head.recursion_available),
        (7, true, true)
    );
    assert!(!head.truncation && !head.authoritative && !head.authentic_data);
    assert_eq!(reply.queries[0].name().to_ascii(), "wWw.Example.COM.");
    assert_eq!(reply.answers.len(), 4);
    // The pointer leads to the question as the client wrote it.
    assert_eq!(reply.answers[0].name.to_ascii(), "wWw.Example.COM.");
    assert_eq!(reply.answers[1].name.to_ascii(), "Edge.cdn.example.");
    assert_eq!(reply.edns.unwrap().max_payload(), super::OWN_SIZE);
}

#[test]
fn a_reply_grows_old() {
    let client = client("www.example.com.", None);
    let at = |age| {
        let reply = reply(&many(1), &client, Transport::Udp, age);
        [reply.answers[0].ttl, reply.answers[1].ttl]
    };
    assert_eq!(at(0), [300, 60]);
    assert_eq!(at(20), [280, 40]);
    assert_eq!(at(100), [200, 0]);
    assert_eq!(at(u64::MAX), [0, 0]);
}

#[test]
fn udp_is_cut_to_the_clients_size_and_tcp_is_whole() {
    let plain = client("www.example.com.", None);
    for (count, size, cut) in [
        (20, None, false),
        (40, None, true),
        (40, Some(512), true),
        (40, Some(1232), false),
        (200, Some(1232), true),
        (200, Some(4096), false),
    ] {
        let client = client("www.example.com.", size);
        let udp = reply(&many(count), &client, Transport::Udp, 0);
        assert_eq!(udp.metadata.truncation, cut, "{count} {size:?}");
        assert_eq!(udp.answers.is_empty(), cut);
        assert_eq!(udp.edns.is_some(), size.is_some());
    }
    let tcp = reply(&many(200), &plain, Transport::Tcp, 0);
    assert!(!tcp.metadata.truncation);
    assert_eq!(tcp.answers.len(), 201);
}

#[test]
fn more_records_than_a_message_has_room_for_are_left_out() {
    let own = name("www.example.com.");
    let address = |n: u32| {
        let owner = name(&format!("{n:060}.example."));
        Record::from_rdata(owner, 60, RData::A(A(n.into())))
    };
    let records: Vec<_> = (0..2000).map(address).collect();
    let content = Content::of(&own, ResponseCode::NoError, &records, &[]);
    let tcp = reply(
        &content,
        &client("www.example.com.", Some(512)),
        Transport::Tcp,
        1,
    );
    assert!(
        (700..2000).contains(&tcp.answers.len()),
        "{}",
        tcp.answers.len()
    );
}

#[test]
fn the_agents_own_answers_can_be_cached() {
    let asked = question("www.example.com", RecordType::A);
    let client = client("www.example.com.", None);
    let local = |code, records| {
        let local = Local {
            code,
            records,
            ttl: 30,
            source: Source::SearchList,
        };
        reply(&Content::local(&asked, &local), &client, Transport::Udp, 0)
    };
    let address = local(ResponseCode::NoError, vec![RData::A(A::new(192, 0, 2, 1))]);
    assert_eq!((address.answers.len(), address.answers[0].ttl), (1, 30));
    let missing = local(ResponseCode::NXDomain, Vec::new());
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities[0].record_type(), RecordType::SOA);
    assert!(
        missing.authorities[0]
            .name
            .zone_of(&name("www.example.com."))
    );
    let root = Content::local(
        &question("", RecordType::A),
        &Local {
            code: ResponseCode::NXDomain,
            records: Vec::new(),
            ttl: 30,
            source: Source::SearchList,
        },
    );
    assert_eq!(root.code(), ResponseCode::NXDomain);
}
