//! Queries as clients send them, and malformed ones.

use super::{BadQuery, Query, read};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Asked, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, Name, RecordType};

fn message(name: &str, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Asked::query(Name::from_ascii(name).unwrap(), RecordType::A));
    change(&mut message);
    message.to_vec().unwrap()
}

fn code(bytes: &[u8]) -> Option<ResponseCode> {
    match read(bytes).unwrap_err() {
        BadQuery::NoQuery => None,
        BadQuery::Rejected { code, .. } | BadQuery::Refused { code, .. } => Some(code),
    }
}

#[test]
fn a_query_is_its_name_in_lower_case_its_type_and_the_clients_size() {
    let mut edns = Edns::new();
    edns.set_max_payload(1400).set_dnssec_ok(true);
    edns.options_mut()
        .insert(EdnsOption::Unknown(12, vec![0; 300]));
    let bytes = message("API.example.COM.", |m| {
        m.set_edns(edns);
    });
    let Query { client, question } = read(&bytes).unwrap();
    assert_eq!(
        (&*question.name, question.kind),
        ("api.example.com", RecordType::A)
    );
    assert_eq!(
        (client.id, client.edns, client.udp_size()),
        (0x1234, Some(1400), 1400)
    );
    assert!(client.recursion_desired && !client.checking_disabled);
    assert_eq!(
        client.question(),
        b"\x03API\x07example\x03COM\0\0\x01\0\x01"
    );
    let fqdn = question.fqdn().unwrap();
    assert_eq!(
        fqdn.to_ascii(),
        "api.example.com.",
        "nothing else goes upstream"
    );

    let plain = read(&message("a.", |_| ())).unwrap();
    assert_eq!((plain.client.edns, plain.client.udp_size()), (None, 512));
    let tiny = message("a.", |m| {
        let mut edns = Edns::new();
        edns.set_max_payload(512);
        m.set_edns(edns);
    });
    assert_eq!(read(&tiny).unwrap().client.udp_size(), 512);
}

#[test]
fn what_is_not_one_question_of_the_internet_is_rejected() {
    let good = message("a.example.", |_| ());
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let form = Some(ResponseCode::FormErr);
    let edns_twice = || {
        let mut bytes = message("a.example.", |m| {
            m.set_edns(Edns::new());
        });
        bytes[11] = 2;
        bytes.extend([0, 0, 41, 2, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    };
    for (what, bytes, expected) in [
        ("nothing", Vec::new(), None),
        ("half a header", good[..11].to_vec(), None),
        ("a response", changed(2, 0x81), None),
        ("NOTIFY", changed(2, 0x21), Some(ResponseCode::NotImp)),
        ("UPDATE", changed(2, 0x29), Some(ResponseCode::NotImp)),
        ("no question", changed(5, 0), form),
        ("two questions", changed(5, 2), form),
        ("65 281 questions", changed(4, 255), form),
        ("an answer", changed(7, 1), form),
        ("an authority", changed(9, 1), form),
        ("an additional record that is missing", changed(11, 1), form),
        ("two EDNS records", edns_twice(), form),
        ("a compressed name", changed(12, 0xc0), form),
        ("a cut question", good[..good.len() - 1].to_vec(), form),
        (
            "class CH",
            changed(good.len() - 1, 3),
            Some(ResponseCode::Refused),
        ),
        (
            "a dot in a label",
            changed(13, b'.'),
            Some(ResponseCode::Refused),
        ),
        (
            "a byte of no host name",
            changed(13, 0xfc),
            Some(ResponseCode::Refused),
        ),
        (
            "EDNS version 1",
            message("a.", |m| {
                let mut edns = Edns::new();
                edns.set_version(1);
                m.set_edns(edns);
            }),
            Some(ResponseCode::BADVERS),
        ),
    ] {
        assert_eq!(code(&bytes), expected, "{what}");
    }
    let mut any = message("a.", |_| ());
    let at = any.len() - 1;
    any[at] = 255;
    assert_eq!(code(&any), Some(ResponseCode::Refused));
    assert_eq!(DNSClass::IN, DNSClass::from(1));
}

#[test]
fn every_reject_has_a_reply_that_hickory_reads() {
    for (bytes, expected) in [
        (
            message("a.", |m| m.metadata.op_code = OpCode::Notify),
            ResponseCode::NotImp,
        ),
        (
            message("a.", |m| drop(m.queries.pop())),
            ResponseCode::FormErr,
        ),
        (message("a\\.b.", |_| ()), ResponseCode::Refused),
    ] {
        let reply = read(&bytes).unwrap_err().reply().unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        let head = reply.metadata;
        assert_eq!((head.id, head.response_code), (0x1234, expected));
        assert_eq!(head.message_type, MessageType::Response);
    }
    let versions = message("a.", |m| {
        let mut edns = Edns::new();
        edns.set_version(3);
        m.set_edns(edns);
    });
    let reply = read(&versions).unwrap_err().reply().unwrap();
    let reply = Message::from_vec(&reply).unwrap();
    // Code 16 has two names.
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert_eq!(reply.edns.unwrap().version(), 0);
}
