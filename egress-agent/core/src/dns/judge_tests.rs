//! Names and types under a policy that denies, and under policies that do not.

use super::super::bench::{RULES, directory, in_cluster, listing, question};
use super::super::listing::Directory;
use super::super::settings::{DeniedCode, QuerySettings};
use super::{Decision, Reach, Reason, Upstream, judge};
use crate::policy::state::Settings;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use proptest::prelude::*;
use std::sync::LazyLock;

/// A decision in a few words.
fn told(directory: &Directory, name: &str, kind: RecordType) -> String {
    match judge(listing(directory), &question(name, kind)) {
        Decision::Forward(f) => {
            let upstream = match f.upstream {
                Upstream::Trusted => "trusted",
                Upstream::Asked => "asked",
            };
            let hosts: Vec<_> = f.services.iter().map(|s| s.host.to_string()).collect();
            let recorded = if f.recorded.is_some() {
                " recorded"
            } else {
                ""
            };
            format!("{upstream} {:?} {}{recorded}", f.reach, hosts.join(","))
        }
        Decision::Local(l) if l.records.is_empty() => format!("local {:?}", l.code),
        Decision::Local(l) => {
            let records: Vec<_> = l.records.iter().map(ToString::to_string).collect();
            format!("local {}", records.join(","))
        }
        Decision::Endpoints(e) => format!("endpoints {:?} {}", e.fixed, e.names.join(",")),
        Decision::Deny(d) => format!("deny {:?}", d.code),
    }
}

#[test]
fn each_name_is_forwarded_answered_or_denied() {
    let directory = directory(RULES, Settings::default(), in_cluster());
    for (name, kind, expected) in [
        // Listed.
        (
            "api.example.com",
            RecordType::A,
            "trusted Leased api.example.com",
        ),
        (
            "api.example.com",
            RecordType::AAAA,
            "trusted Leased api.example.com",
        ),
        (
            "api.example.com",
            RecordType::HTTPS,
            "trusted Leased api.example.com",
        ),
        ("api.example.com", RecordType::TXT, "deny NoError"),
        ("api.example.com", RecordType::ANY, "deny NotImp"),
        ("api.example.com", RecordType::AXFR, "deny NotImp"),
        (
            "_8443._https.api.example.com",
            RecordType::HTTPS,
            "trusted Leased api.example.com",
        ),
        (
            "_8444._https.api.example.com",
            RecordType::HTTPS,
            "deny Refused",
        ),
        (
            "_08443._https.api.example.com",
            RecordType::HTTPS,
            "deny Refused",
        ),
        (
            "_8443._https.api.example.com",
            RecordType::A,
            "deny Refused",
        ),
        (
            "a.wild.example",
            RecordType::A,
            "trusted Leased *.wild.example",
        ),
        (
            "b.a.wild.example",
            RecordType::A,
            "trusted Leased *.wild.example",
        ),
        ("wild.example", RecordType::A, "deny Refused"),
        ("awild.example", RecordType::A, "deny Refused"),
        ("a.b.c.d.e.f.g.wild.example", RecordType::A, "deny Refused"),
        // Given by rules.
        ("vip.example", RecordType::A, "local 192.0.2.7"),
        ("vip.example", RecordType::AAAA, "local NoError"),
        ("fixed.example", RecordType::A, "local 198.51.100.1"),
        ("fixed.example", RecordType::AAAA, "local 2001:db8::1"),
        // Unlisted.
        ("example.com", RecordType::A, "deny Refused"),
        ("secret.api.example.com", RecordType::A, "deny Refused"),
        ("", RecordType::NS, "deny Refused"),
    ] {
        assert_eq!(told(&directory, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn names_of_the_cluster_the_machine_and_search_lists_are_known() {
    let directory = directory(RULES, Settings::default(), in_cluster());
    for (name, kind, expected) in [
        // The cluster's own.
        (
            "kubernetes.default.svc.cluster.local",
            RecordType::A,
            "asked All ",
        ),
        (
            "_https._tcp.kubernetes.default.svc.cluster.local",
            RecordType::SRV,
            "asked All ",
        ),
        (
            "10-0-0-1.shop.pod.cluster.local",
            RecordType::A,
            "asked All ",
        ),
        (
            "a.b.c.d.e.f.svc.cluster.local",
            RecordType::A,
            "local NXDomain",
        ),
        (
            "evil.example.cluster.local",
            RecordType::A,
            "local NXDomain",
        ),
        // Made of search lists.
        (
            "api.example.com.shop.svc.cluster.local",
            RecordType::A,
            "local NXDomain",
        ),
        (
            "api.example.com.svc.cluster.local",
            RecordType::A,
            "local NXDomain",
        ),
        (
            "api.example.com.cluster.local",
            RecordType::A,
            "local NXDomain",
        ),
        (
            "a.wild.example.shop.svc.cluster.local",
            RecordType::A,
            "local NXDomain",
        ),
        (
            "api.example.com.corp.example",
            RecordType::A,
            "local NXDomain",
        ),
        (
            "x.shop.svc.cluster.local.corp.example",
            RecordType::A,
            "local NXDomain",
        ),
        ("reviews.corp.example", RecordType::A, "local NXDomain"),
        ("evil.example.corp.example", RecordType::A, "deny NXDomain"),
        ("reviews", RecordType::A, "local NXDomain"),
        ("reviews.shop.svc", RecordType::A, "local NXDomain"),
        // The machine's own.
        ("localhost", RecordType::A, "local 127.0.0.1"),
        ("a.localhost", RecordType::AAAA, "local ::1"),
        ("use-application-dns.net", RecordType::A, "local NXDomain"),
        ("_dns.resolver.arpa", RecordType::SVCB, "local NoError"),
        // Reverse.
        (
            "1.113.0.203.in-addr.arpa",
            RecordType::PTR,
            "local api.example.com.",
        ),
        ("2.113.0.203.in-addr.arpa", RecordType::PTR, "deny Refused"),
        ("1.113.0.203.in-addr.arpa", RecordType::TXT, "deny Refused"),
        ("1.0.0.10.in-addr.arpa", RecordType::PTR, "asked All "),
        ("x.1.0.0.10.in-addr.arpa", RecordType::PTR, "deny Refused"),
        (
            "1.0.0.127.in-addr.arpa",
            RecordType::PTR,
            "local localhost.",
        ),
    ] {
        assert_eq!(told(&directory, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn outside_a_cluster_its_names_are_unlisted() {
    let directory = directory(RULES, Settings::default(), QuerySettings::default());
    for name in ["secret.shop.svc.cluster.local", "secret.cluster.local"] {
        assert_eq!(told(&directory, name, RecordType::A), "deny Refused");
    }
}

#[test]
fn outside_a_cluster_a_host_of_the_search_domain_is_denied_and_recorded() {
    let settings = QuerySettings {
        search: in_cluster().search,
        ..QuerySettings::default()
    };
    let directory = directory(RULES, Settings::default(), settings);
    for (name, expected) in [
        ("jira.corp.example", "deny NXDomain"),
        ("api.example.com.corp.example", "local NXDomain"),
    ] {
        assert_eq!(told(&directory, name, RecordType::A), expected, "{name}");
    }
}

#[test]
fn settings_allow_types_and_choose_the_code() {
    let settings = QuerySettings {
        types: vec![RecordType::TXT],
        denied: DeniedCode::NoSuchName,
        ..in_cluster()
    };
    let directory = directory(RULES, Settings::default(), settings);
    let listed = "trusted Leased api.example.com";
    assert_eq!(told(&directory, "api.example.com", RecordType::TXT), listed);
    assert_eq!(
        told(&directory, "api.example.com", RecordType::MX),
        "deny NoError"
    );
    assert_eq!(
        told(&directory, "evil.example", RecordType::TXT),
        "deny NXDomain"
    );
}

#[test]
fn a_policy_that_denies_nothing_forwards_everything() {
    let audit = Settings {
        audit: true,
        ..Settings::default()
    };
    let any = Settings {
        allow_any: true,
        ..Settings::default()
    };
    for (settings, recorded) in [(audit, " recorded"), (any, "")] {
        let directory = directory(RULES, settings, in_cluster());
        for (name, kind, expected) in [
            (
                "api.example.com",
                RecordType::A,
                "trusted All api.example.com",
            ),
            (
                "evil.example",
                RecordType::TXT,
                &format!("asked All {recorded}"),
            ),
            ("api.example.com.corp.example", RecordType::A, "asked All "),
            ("evil.example", RecordType::ANY, "deny NotImp"),
            ("localhost", RecordType::A, "local 127.0.0.1"),
        ] {
            assert_eq!(told(&directory, name, kind), expected, "{name}");
        }
    }
}

#[test]
fn denials_name_their_setting() {
    let directory = directory(RULES, Settings::default(), in_cluster());
    let why = |name: &str, kind| match judge(listing(&directory), &question(name, kind)) {
        Decision::Deny(denial) => denial.reason,
        other => panic!("{other:?}"),
    };
    let long = format!(
        "{}.{}.{}.wild.example",
        "a".repeat(60),
        "b".repeat(60),
        "c".repeat(60)
    );
    assert!(why(&long, RecordType::A).to_string().contains("dns.below"));
    let kind = why("api.example.com", RecordType::MX).to_string();
    assert!(kind.contains("dns.types"), "{kind}");
    assert_eq!(why("evil.example", RecordType::A), Reason::Unlisted);
}

static IN_CLUSTER: LazyLock<Directory> =
    LazyLock::new(|| directory(RULES, Settings::default(), in_cluster()));
static ALONE: LazyLock<Directory> =
    LazyLock::new(|| directory(RULES, Settings::default(), QuerySettings::default()));

/// Names near the listed ones and far from them.
fn names() -> impl Strategy<Value = String> {
    let label = prop_oneof![
        "[a-z0-9_-]{1,12}",
        Just("api".to_owned()),
        Just("example".to_owned()),
        Just("com".to_owned()),
        Just("wild".to_owned()),
        Just("corp".to_owned()),
        Just("svc".to_owned()),
        Just("cluster".to_owned()),
        Just("local".to_owned()),
    ];
    prop::collection::vec(label, 0..7).prop_map(|labels| labels.join("."))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// The plain reader of the rules: what may leave to a trusted server is listed, and what goes to the client's
    /// server is the cluster's own.
    #[test]
    fn no_unlisted_name_is_forwarded(name in names(), kind in any::<u16>(), cluster in any::<bool>()) {
        let directory = if cluster { &IN_CLUSTER } else { &ALONE };
        let kind = RecordType::from(kind);
        if let Decision::Forward(forward) = judge(listing(directory), &question(&name, kind)) {
            match forward.upstream {
                Upstream::Trusted => {
                    let listed = name == "api.example.com"
                        || name == "_8443._https.api.example.com"
                        || name == "_443._https.api.example.com"
                        || name.strip_suffix(".wild.example").is_some_and(|p| p.len() <= 128);
                    prop_assert!(listed, "{name}");
                    prop_assert_eq!(forward.reach, Reach::Leased);
                    prop_assert!(!forward.services.is_empty());
                }
                Upstream::Asked => {
                    let own = name == "cluster.local" || name.ends_with(".cluster.local");
                    let reverse = name.ends_with(".10.in-addr.arpa");
                    prop_assert!(cluster && (own || reverse), "{name}");
                }
            }
        }
    }

    #[test]
    fn a_denied_query_gets_a_code_that_clients_know(name in names(), kind in any::<u16>()) {
        let directory = &IN_CLUSTER;
        let kind = RecordType::from(kind);
        if let Decision::Deny(denial) = judge(listing(directory), &question(&name, kind)) {
            let known = [ResponseCode::Refused, ResponseCode::NotImp, ResponseCode::NoError];
            let searched = denial.code == ResponseCode::NXDomain && name.ends_with(".corp.example");
            prop_assert!(known.contains(&denial.code) || searched);
        }
    }
}
