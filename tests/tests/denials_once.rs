//! One log line per attempt: getaddrinfo's sorting of addresses does not count as an attempt.

use egress_tests::Lab;
use egress_tests::lab::{host, v4, v6};
use std::net::SocketAddr;
use std::time::Duration;

const NAME_SERVER: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dns}
spec:
  hosts: [dns.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 53, name: udp-dns, protocol: UDP}]
  endpoints: [{address: 198.51.100.53}, {address: \"2001:db8:2::53\"}]
";

#[test]
fn a_denied_name_with_two_addresses_is_told_by_two_lines() {
    let mut lab = Lab::start().unwrap();
    lab.rules("dns.yaml", NAME_SERVER).unwrap();
    let mark = lab.agent().unwrap().mark();
    let reply = lab.curl(&["http://bystander.example/"]).unwrap();
    assert!(reply.refused(), "{reply:?}");
    // A datagram client comes last. When its line appears, lines of the others would have appeared too.
    let client = SocketAddr::new(v4(host::BYSTANDER), 9);
    lab.attempt("udp-connected", client).unwrap();
    let agent = lab.agent().unwrap();
    let own = |line: &str| line.contains(&client.to_string());
    agent
        .wait_line(
            mark,
            Duration::from_secs(5),
            "the datagram client is reported",
            own,
        )
        .unwrap();
    let log = agent.log_since(mark);
    let denied: Vec<_> = log
        .iter()
        .filter(|line| line.contains("denied") && !own(line))
        .collect();
    for ip in [v4(host::BYSTANDER), v6(host::BYSTANDER)] {
        let to = SocketAddr::new(ip, 80).to_string();
        let lines: Vec<_> = denied.iter().filter(|line| line.contains(&to)).collect();
        assert_eq!(lines.len(), 1, "{to}: {log:#?}");
        assert!(lines[0].contains("tcp"), "{lines:?}");
    }
    assert_eq!(denied.len(), 2, "{log:#?}");
}
