//! The hint of a denial: the nearest rule, and the setting that would allow the connection.

use super::bench::Bench;
use super::{LAB, entry, port};
use crate::policy::claims::UnlistedAddress;
use crate::policy::state::Settings;
use crate::policy::tables::Transport;
use egress_ebpf::ids::PolicyId;
use egress_ebpf::verdict::Reason;

#[test]
fn the_nearest_rule_says_what_differs() {
    let mixed = format!(
        "{}, {{number: 53, name: d, protocol: UDP}}",
        port(443, "TLS")
    );
    let other = entry("b.example", "DNS", &mixed, "");
    let mut bench = Bench::new(Settings::default(), &[LAB, &other]);
    bench.answer("httpbin.org", &["203.0.113.80"]);
    bench.answer("b.example", &["203.0.113.9"]);
    let nearest = |ip: &str, port, via| {
        bench.state.names().nearest(
            PolicyId(0),
            ip.parse().unwrap(),
            port,
            via,
            Reason::NotListed,
        )
    };
    assert_eq!(
        nearest("203.0.113.80", 8080, Transport::Tcp).as_deref(),
        Some("httpbin.org lists port 80 only")
    );
    assert_eq!(
        nearest("::ffff:203.0.113.9", 80, Transport::Tcp).as_deref(),
        Some("b.example lists ports 53/udp and 443 only")
    );
    assert_eq!(nearest("203.0.113.99", 80, Transport::Tcp), None);
}

#[test]
fn a_flow_that_is_denied_though_its_port_is_listed_says_what_is_in_its_way() {
    let mut bench = Bench::new(Settings::default(), &[LAB]);
    bench.answer("httpbin.org", &["203.0.113.80"]);
    let names = bench.state.names();
    let ip = "203.0.113.80".parse().unwrap();
    let said = |reason| {
        names
            .nearest(PolicyId(0), ip, 80, Transport::Tcp, reason)
            .unwrap()
    };
    assert_eq!(
        said(Reason::NoProxy),
        "port 80 of httpbin.org is allowed through the proxy, and this network namespace has no \
         proxy yet"
    );
    assert_eq!(
        said(Reason::CgroupDepth),
        "port 80 of httpbin.org is listed, but the socket's cgroup is more than 32 levels deep: run \
         the workload in a cgroup nearer to the root"
    );
    let others = Reason::ALL.iter().filter(|r| **r != Reason::NoProxy);
    let said: std::collections::BTreeSet<_> = others.map(|reason| said(*reason)).collect();
    assert_eq!(said.len(), Reason::ALL.len() - 1, "one each: {said:?}");
    assert!(
        said.iter()
            .all(|s| s.starts_with("port 80 of httpbin.org is listed, but "))
    );
}

#[test]
fn a_denied_address_that_is_not_public_names_its_host_and_the_setting() {
    let tcp = entry("db.example", "DNS", &port(5432, "TCP"), "");
    let mut bench = Bench::new(Settings::default(), &[LAB, &tcp]);
    bench.answer("db.example", &["10.1.2.3", "fd00::3"]);
    for ip in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::3"] {
        let ip = ip.parse().unwrap();
        assert_eq!(bench.state.names().of(ip), ["db.example"]);
        let nearest = |port, via| {
            bench
                .state
                .names()
                .nearest(PolicyId(0), ip, port, via, Reason::NotListed)
        };
        assert_eq!(
            nearest(5432, Transport::Tcp).as_deref(),
            Some(
                "db.example lists port 5432; DNS gives it this address, which is not public: \
                 allowPrivateAnswers accepts all such addresses, privateAnswers those of one network"
            )
        );
        assert_eq!(
            nearest(22, Transport::Tcp).as_deref(),
            Some("db.example lists port 5432 only")
        );
    }
    let failing = bench.state.failing();
    assert_eq!(
        failing[0].1.to_string(),
        "its address 10.1.2.3 is not public; allowPrivateAnswers accepts all such addresses, privateAnswers those of one network"
    );
    bench.answer("db.example", &["203.0.113.5"]);
    let gone = "10.1.2.3".parse().unwrap();
    assert_eq!(
        bench
            .state
            .names()
            .nearest(PolicyId(0), gone, 5432, Transport::Tcp, Reason::NotListed),
        None
    );
    assert!(bench.state.names().of(gone).is_empty());
}

#[test]
fn where_answers_change_a_denied_address_of_the_port_names_the_settings() {
    let web = entry("cdn.example", "DNS", &port(443, "TLS"), "");
    let tcp = entry("db.example", "DNS", &port(5432, "TCP"), "");
    let by_name = Settings {
        unlisted_address: UnlistedAddress::ByName,
        ..Settings::default()
    };
    for settings in [Settings::default(), by_name] {
        let by_name = settings.unlisted_address == UnlistedAddress::ByName;
        let mut bench = Bench::new(settings, &[&web, &tcp]);
        let hint = |bench: &Bench, port| {
            let ip = "203.0.113.99".parse().unwrap();
            bench
                .state
                .names()
                .nearest(PolicyId(0), ip, port, Transport::Tcp, Reason::NotListed)
        };
        for n in 1..=2 {
            assert_eq!(hint(&bench, 443), None, "nothing changed before answer {n}");
            for name in ["cdn.example", "db.example"] {
                bench.answer(name, &[&format!("203.0.113.{n}")]);
            }
        }
        let web = hint(&bench, 443);
        assert_eq!(web.is_none(), by_name, "{web:?}");
        assert!(web.is_none_or(
            |hint| hint.contains("port 443 is listed for cdn.example, whose")
                && hint.contains("unlistedAddress: byName")
        ));
        let tcp = hint(&bench, 5432).unwrap();
        // Another host with this address would be a worse hint.
        bench.answer("cdn.example", &["203.0.113.99"]);
        assert_eq!(hint(&bench, 5432).as_ref(), Some(&tcp));
        assert_eq!(
            hint(&bench, 80).as_deref(),
            Some("cdn.example lists port 443 only")
        );
        assert!(
            tcp.contains("port 5432 is listed for db.example, whose") && tcp.contains("dns.grace")
        );
        for _ in 0..8 {
            bench.answer("db.example", &["203.0.113.2"]);
        }
        let settled = hint(&bench, 5432).unwrap();
        assert_eq!(settled, "cdn.example lists port 443 only");
        bench.rules(&[]);
        assert_eq!(hint(&bench, 443), None);
    }
}

#[test]
fn a_port_that_serves_nothing_for_want_of_a_resolution_says_so() {
    let object = |resolution: &str, protocol: &str| {
        entry("db.example", "NONE", &port(5432, protocol), "")
            .replace("resolution: NONE", resolution)
    };
    let hint = |rules: &str, number, via| {
        let bench = Bench::new(Settings::default(), &[LAB, rules]);
        let ip = "203.0.113.99".parse().unwrap();
        bench
            .state
            .names()
            .nearest(PolicyId(0), ip, number, via, Reason::NotListed)
    };
    let unspelt = object("exportTo: ['*']", "TCP");
    let said = hint(&unspelt, 5432, Transport::Tcp).unwrap();
    assert!(
        said.starts_with(
            "port 5432 of db.example serves nothing, because its resolution is not spelt out"
        ),
        "{said}"
    );
    assert!(said.contains("write resolution: NONE"), "{said}");
    assert_eq!(hint(&unspelt, 5433, Transport::Tcp), None);
    assert_eq!(hint(&unspelt, 5432, Transport::Udp), None);
    let datagrams = object("exportTo: ['*']", "UDP");
    assert!(hint(&datagrams, 5432, Transport::Udp).is_some());
    assert_eq!(hint(&datagrams, 5432, Transport::Tcp), None);
    let spelt = object("resolution: NONE", "TCP");
    assert_eq!(hint(&spelt, 5432, Transport::Tcp), None);
}
