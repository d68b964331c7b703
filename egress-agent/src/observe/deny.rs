//! The log line of a denial by the kernel. Owns the names of its numeric codes.

use super::event::{By, Event, Owner};
use egress_ebpf::abi::{DenyEvent, NO_POLICY, proto};
use egress_ebpf::verdict::{Hook, Reason};
use std::net::{IpAddr, SocketAddr};

/// The spelling of a code of a newer kernel side.
pub const UNKNOWN: &str = "unknown";

/// Writes the line. `names` are the known names of the address. `nearest` is the nearest rule and what
/// differs. Codes of a newer kernel side are shown as `unknown`.
pub fn log(event: &DenyEvent, owner: &Owner, names: &[impl AsRef<str>], nearest: Option<&str>) {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let names = names.join(",");
    Event {
        by: By::Kernel,
        audit: event.audit != 0,
        reason: Reason::from_code(event.reason).map_or(UNKNOWN, Reason::word),
        detail: None,
        destination: Some(SocketAddr::new(IpAddr::from(event.addr), event.port)),
        protocol: &protocol(event.proto),
        names: Some(names.as_str()).filter(|names| !names.is_empty()),
        nearest,
        owner,
        policy: Some(event.policy).filter(|policy| *policy != NO_POLICY),
        pid: Some(event.pid),
        comm: Some(&event.comm.to_string()),
        hook: Some(Hook::from_code(event.hook).map_or(UNKNOWN, Hook::word)),
        peer: None,
        repeated: event.repeated.into(),
    }
    .log();
}

fn protocol(number: u8) -> String {
    match number {
        proto::TCP => "tcp".to_owned(),
        proto::UDP => "udp".to_owned(),
        proto::ICMP => "icmp".to_owned(),
        proto::ICMPV6 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::captured;
    use egress_ebpf::abi::Comm;

    fn event() -> DenyEvent {
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"cu\nrl");
        DenyEvent {
            addr: "203.0.113.9".parse::<IpAddr>().unwrap().into(),
            port: 443,
            proto: proto::TCP,
            reason: Reason::NoProxy as u8,
            hook: Hook::Connect6 as u8,
            pid: 42,
            comm: Comm(comm),
            ..DenyEvent::default()
        }
    }

    fn line_of(event: &DenyEvent) -> serde_json::Value {
        let owner = Owner {
            cgroup: Some("/pods/a".into()),
            workload: Some("shop/web".into()),
            pod: None,
        };
        let listed = Some("a.example lists port 80");
        let mut lines = captured::lines(|| log(event, &owner, &["a.example", "b.example"], listed));
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }

    #[test]
    fn what_an_auditing_policy_lets_pass_is_told_as_such() {
        let line = line_of(&DenyEvent {
            audit: 1,
            ..event()
        });
        assert_eq!(
            (&line["message"], &line["level"]),
            (&"would_deny".into(), &"INFO".into())
        );
    }

    #[test]
    fn a_denial_is_one_line_with_everything_known() {
        let line = line_of(&DenyEvent {
            repeated: 3,
            ..event()
        });
        assert_eq!(line["repeated"], 3);
        for (field, want) in [
            ("message", "denied"),
            ("by", "kernel"),
            ("reason", "no-proxy"),
            ("destination", "203.0.113.9:443"),
            ("protocol", "tcp"),
            ("hook", "connect6"),
            ("names", "a.example,b.example"),
            ("nearest", "a.example lists port 80"),
            ("comm", "cu?rl"),
            ("workload", "shop/web"),
            ("cgroup", "/pods/a"),
        ] {
            assert_eq!(line[field], want, "{field}");
        }
        assert_eq!(line["pid"], 42);
    }

    #[test]
    fn numbers_of_another_kernel_side_are_still_logged() {
        let line = line_of(&DenyEvent {
            reason: 250,
            hook: 0,
            proto: 132,
            ..event()
        });
        for (field, want) in [
            ("reason", "unknown"),
            ("hook", "unknown"),
            ("protocol", "132"),
        ] {
            assert_eq!(line[field], want, "{field}");
        }
    }
}
