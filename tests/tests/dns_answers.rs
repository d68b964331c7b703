//! Answers that do not come from the DNS of the host's own name: endpoints that are names, and targets of aliases that
//! a client follows itself.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::hosts::Fault;
use egress_tests::lab::LabOptions;
use egress_tests::queries::{self, NAME_ERROR, NO_ERROR, REFUSED, SERVER_FAILURE};
use egress_tests::rules::ECHO;
use egress_tests::{Lab, wait_until};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// A host whose endpoints are a name and an address; DNS knows another address for the host.
const DATABASE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: database}
spec:
  hosts: [db.example]
  ports: [{number: 7, name: tcp, protocol: TCP}]
  resolution: DNS
  endpoints: [{address: primary.backend.example}, {address: 198.51.100.152}]
";

fn lab(flags: &[&str]) -> Lab {
    let flags = [&["--dns-intercept=auto"], flags].concat();
    Lab::start_with(LabOptions::flags(&flags)).unwrap()
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, last])
}

/// The answer that a client gets: its code and addresses.
fn ask(lab: &Lab, name: &str) -> (u64, Vec<IpAddr>) {
    let answers = queries::ask(&lab.client_place(), "connected", name, &["192.0.2.1"]).unwrap();
    let addresses = queries::addresses(&answers[0]).unwrap();
    (answers[0]["code"].as_u64().unwrap(), addresses)
}

fn connects(lab: &Lab, to: IpAddr) -> bool {
    let tried = lab.attempt("tcp-echo", SocketAddr::new(to, 7)).unwrap();
    tried.passed()
}

#[test]
fn a_host_with_endpoints_that_are_names_is_answered_with_their_addresses() {
    let lab = lab(&[]);
    lab.world().echo(&[ip(150), ip(151), ip(152)], 7).unwrap();
    lab.dns.set("db.example", &[ip(150)], 1);
    lab.dns.set("primary.backend.example", &[ip(151)], 1);
    lab.rules("database.yaml", DATABASE).unwrap();
    assert_eq!(ask(&lab, "db.example"), (NO_ERROR, vec![ip(152), ip(151)]));
    assert!(connects(&lab, ip(151)) && connects(&lab, ip(152)));
    assert!(!connects(&lab, ip(150)));
    // The name of an endpoint is not listed itself.
    assert_eq!(ask(&lab, "primary.backend.example").0, REFUSED);
    // The endpoint moves. Each answer connects.
    for last in 160..170 {
        lab.world().echo(&[ip(last)], 7).unwrap();
        lab.dns.set("primary.backend.example", &[ip(last)], 1);
        wait_until("the endpoint's other address", LIMIT, || {
            (ask(&lab, "db.example").1 == [ip(152), ip(last)]).then_some(())
        })
        .unwrap();
        assert!(connects(&lab, ip(last)), "{last}");
    }
    let asked = lab.dns.queries();
    assert!(
        asked.iter().all(|(name, _)| name != "db.example"),
        "{asked:?}"
    );
}

#[test]
fn a_host_whose_endpoint_has_no_address_yet_is_asked_for_again() {
    let lab = lab(&[]);
    lab.dns.fail(Fault::ServerFailure);
    let rules = DATABASE.replace(", {address: 198.51.100.152}", "");
    lab.write_rules("database.yaml", &rules).unwrap();
    wait_until("no answer", LIMIT, || {
        (ask(&lab, "db.example").0 == SERVER_FAILURE).then_some(())
    })
    .unwrap();
    lab.world().echo(&[ip(151)], 7).unwrap();
    lab.dns.set("primary.backend.example", &[ip(151)], 1);
    lab.dns.fail(Fault::None);
    wait_until("the address", LIMIT, || {
        (ask(&lab, "db.example") == (NO_ERROR, vec![ip(151)])).then_some(())
    })
    .unwrap();
    assert!(connects(&lab, ip(151)));
}

#[test]
fn a_client_that_follows_aliases_itself_may_ask_for_their_targets() {
    let lab = lab(&["--dns-min-ttl=20s", "--dns-grace=1m"]);
    lab.world().echo(&[ip(150)], 7).unwrap();
    lab.dns.alias("echo.example", "edge.cdn.example", 1);
    lab.dns.alias("edge.cdn.example", "pop.cdn.example", 1);
    lab.dns.set("pop.cdn.example", &[ip(150)], 1);
    lab.dns.set("other.cdn.example", &[ip(150)], 1);
    lab.rules("echo.yaml", ECHO).unwrap();
    let targets = ["edge.cdn.example", "pop.cdn.example"];
    for name in targets {
        assert_eq!(ask(&lab, name).0, REFUSED, "{name}");
    }
    assert_eq!(ask(&lab, "echo.example"), (NO_ERROR, vec![ip(150)]));
    // An address that only the answer for the target has.
    lab.world().echo(&[ip(151)], 7).unwrap();
    lab.dns.set("pop.cdn.example", &[ip(151)], 1);
    for name in targets {
        assert_eq!(ask(&lab, name), (NO_ERROR, vec![ip(151)]), "{name}");
    }
    assert!(connects(&lab, ip(151)));
    for name in ["other.cdn.example", "cdn.example", "a.pop.cdn.example"] {
        assert_eq!(ask(&lab, name).0, REFUSED, "{name}");
    }
    wait_until("the end of the aliases", 6 * LIMIT, || {
        targets
            .iter()
            .all(|name| ask(&lab, name).0 == REFUSED)
            .then_some(())
    })
    .unwrap();
}

#[test]
fn an_alias_to_a_name_without_records_is_answered_and_kept_as_one_over_udp() {
    let lab = lab(&[]);
    lab.rules("wild.yaml", DYNAMIC).unwrap();
    lab.dns.alias("a.wild.example", "edge.cdn.example", 60);
    lab.dns.alias("b.wild.example", "none.cdn.example", 60);
    lab.dns.set("edge.cdn.example", &[ip(150)], 60);
    for (fault, each) in [(Fault::None, 1), (Fault::Truncated, 2)] {
        lab.dns.fail(fault);
        for (name, code) in [("a.wild.example", NO_ERROR), ("b.wild.example", NAME_ERROR)] {
            let asked = || {
                let queries = lab.dns.queries();
                queries.iter().filter(|(other, _)| *other == name).count()
            };
            // The answer over UDP is kept for a second.
            let before = wait_until("an answer that is not kept", LIMIT, || {
                let before = asked();
                let place = lab.client_place();
                let names = format!("{name},{name}");
                let answers = queries::ask(&place, "connected:AAAA", &names, &["192.0.2.1"]);
                for answer in answers.unwrap() {
                    assert_eq!(answer["code"], code, "{answer}");
                    // CNAME and SOA.
                    assert_eq!(answer["kinds"], serde_json::json!([5, 6]), "{answer}");
                }
                (asked() > before).then_some(before)
            });
            assert_eq!(asked() - before.unwrap(), each, "{name} {fault:?}");
        }
    }
}

const DYNAMIC: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ["*.wild.example"]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DYNAMIC_DNS
"#;

#[test]
fn a_client_of_a_dynamic_host_reaches_the_address_that_it_got() {
    let lab = lab(&[]);
    lab.rules("wild.yaml", DYNAMIC).unwrap();
    let name = "a.wild.example";
    let url = format!("http://{name}/get");
    // Each address is new to the agent.
    for last in 150..160 {
        let origin = lab.world().http(&[ip(last)], 80).unwrap();
        lab.dns.set(name, &[ip(last)], 0);
        let (code, addresses) = ask(&lab, name);
        assert_eq!((code, &addresses[..]), (NO_ERROR, &[ip(last)][..]));
        let own = format!("{name}:80:{}", ip(last));
        assert_eq!(lab.curl(&["--resolve", &own, &url]).unwrap().code, 200);
        assert_eq!(origin.requests().len(), 1, "{last}");
    }
    // An address that no answer had: the proxy dials one of its own answer.
    let stranger = lab.world().http(&[ip(170)], 80).unwrap();
    let own = format!("{name}:80:{}", ip(170));
    assert_eq!(lab.curl(&["--resolve", &own, &url]).unwrap().code, 200);
    assert_eq!(stranger.requests().len(), 0);
    // By the client's own resolver.
    assert_eq!(lab.curl(&[&url]).unwrap().code, 200);
    assert_eq!(ask(&lab, "wild.example").0, REFUSED);
}
