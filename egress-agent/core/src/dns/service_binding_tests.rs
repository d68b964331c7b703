//! HTTPS records of upstream servers, and what clients get of them.

use super::super::records::{API, Bench, name};
use hickory_proto::rr::rdata::svcb::{
    Alpn, EchConfigList, IpHint, Mandatory, SvcParamKey, SvcParamValue,
};
use hickory_proto::rr::rdata::{A, AAAA, HTTPS, SVCB};
use hickory_proto::rr::{RData, Record, RecordType};

fn binding(priority: u16, target: &str, params: Vec<(SvcParamKey, SvcParamValue)>) -> Record {
    let data = SVCB::new(priority, name(target), params);
    Record::from_rdata(name(API), 60, RData::HTTPS(HTTPS(data)))
}

#[test]
fn service_bindings_lose_encrypted_hellos_and_hints() {
    let bench = Bench::new(RecordType::HTTPS);
    let alpn = |all: &[&str]| {
        let all = all.iter().map(ToString::to_string).collect();
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(all)))
    };
    let hint = (
        SvcParamKey::Ipv4Hint,
        SvcParamValue::Ipv4Hint(IpHint(vec![A::new(203, 0, 113, 9)])),
    );
    let hint6 = (
        SvcParamKey::Ipv6Hint,
        SvcParamValue::Ipv6Hint(IpHint(vec![AAAA::new(1, 2, 3, 4, 5, 6, 7, 8)])),
    );
    let ech = (
        SvcParamKey::EchConfigList,
        SvcParamValue::EchConfigList(EchConfigList(vec![1, 2])),
    );
    let port = |n| (SvcParamKey::Port, SvcParamValue::Port(n));
    let needs = |key| {
        (
            SvcParamKey::Mandatory,
            SvcParamValue::Mandatory(Mandatory(vec![key])),
        )
    };
    let bare = (SvcParamKey::NoDefaultAlpn, SvcParamValue::NoDefaultAlpn);
    let all = vec![alpn(&["h2", "h3"]), hint, ech.clone(), hint6];
    for (record, expected) in [
        (
            binding(1, ".", all),
            Some("api.example.com. 60 1 . alpn=h2,"),
        ),
        (
            binding(1, ".", vec![alpn(&["h3"])]),
            Some("api.example.com. 60 1 ."),
        ),
        (binding(1, ".", vec![alpn(&["h3"]), bare]), None),
        (
            binding(1, ".", vec![needs(SvcParamKey::EchConfigList), ech]),
            None,
        ),
        (
            binding(1, ".", vec![port(8443)]),
            Some("api.example.com. 60 1 . port=8443"),
        ),
        (binding(1, ".", vec![port(8444)]), None),
        (
            binding(1, "a.wild.example.", vec![]),
            Some("api.example.com. 60 1 a.wild.example."),
        ),
        (binding(1, "evil.example.", vec![]), None),
        (
            binding(0, "a.wild.example.", vec![]),
            Some("api.example.com. 60 0 a.wild.example."),
        ),
        (binding(0, "evil.example.", vec![]), None),
        (binding(0, ".", vec![]), None),
    ] {
        let given = bench.given(std::slice::from_ref(&record));
        let given: Vec<_> = given.iter().map(|text| text.trim_end()).collect();
        assert_eq!(given, expected.into_iter().collect::<Vec<_>>(), "{record}");
    }
}
