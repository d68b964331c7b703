//! One refusal of the kernel as one structured log line.

use super::cgroups::CgroupPaths;
use egress_ebpf::abi::{DenyEvent, proto};
use egress_ebpf::verdict::{Hook, Reason};
use std::net::{IpAddr, SocketAddr};

/// A refusal in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// [`Reason::word`].
    pub reason: &'static str,
    /// Destination as dialled.
    pub destination: SocketAddr,
    /// `tcp`, `udp`, or the IANA number.
    pub protocol: String,
    /// [`Hook::word`].
    pub hook: &'static str,
    /// Thread group id of the task.
    pub pid: u32,
    /// Its name, as far as it is UTF-8.
    pub comm: String,
    /// Path of the socket owner's cgroup; empty if the kernel did not know it.
    pub cgroup: String,
    /// It passed: the policy audits.
    pub audit: bool,
    /// Refusals of the same kind since its last event that had none of their own.
    pub repeated: u32,
}

impl Denial {
    /// Puts an event into words. Numbers of a newer kernel side are `unknown`, not lost.
    pub fn of(event: &DenyEvent, cgroups: &mut CgroupPaths) -> Self {
        Self {
            reason: Reason::from_code(event.reason).map_or("unknown", Reason::word),
            destination: SocketAddr::new(IpAddr::from(event.addr), event.port),
            protocol: protocol(event.proto),
            hook: Hook::from_code(event.hook).map_or("unknown", Hook::word),
            pid: event.pid,
            comm: comm(&event.comm),
            cgroup: if event.cgroup == 0 {
                String::new()
            } else {
                cgroups.path(event.cgroup)
            },
            audit: event.audit != 0,
            repeated: event.repeated,
        }
    }

    /// Writes the line. `names` are those that the address is known by; `nearest` is the rule that
    /// came closest and what about it differs.
    pub fn log(&self, names: &[impl AsRef<str>], nearest: Option<&str>) {
        let names = names
            .iter()
            .map(AsRef::as_ref)
            .collect::<Vec<_>>()
            .join(",");
        // The message is part of a line's static shape, so there is one for each.
        macro_rules! line {
            ($level:ident, $message:literal) => {
                tracing::$level!(
                    reason = self.reason,
                    destination = %self.destination,
                    protocol = self.protocol,
                    hook = self.hook,
                    names,
                    nearest = nearest.unwrap_or_default(),
                    pid = self.pid,
                    comm = self.comm,
                    cgroup = self.cgroup,
                    repeated = self.repeated,
                    $message
                )
            };
        }
        if self.audit {
            line!(info, "would_deny");
        } else {
            line!(warn, "denied");
        }
    }
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

/// The bytes before the NUL. A task chooses its name: control characters would forge log lines.
pub fn comm(bytes: &[u8; 16]) -> String {
    let name = bytes.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
pub(super) const MODULE: &str = module_path!();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::captured;

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
            comm,
            ..DenyEvent::default()
        }
    }

    fn line_of(denial: &Denial) -> serde_json::Value {
        let listed = Some("a.example lists port 80");
        let mut lines = captured::lines(|| denial.log(&["a.example", "b.example"], listed));
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }

    #[test]
    fn what_an_auditing_policy_lets_pass_is_told_as_such() {
        let event = DenyEvent {
            audit: 1,
            ..event()
        };
        let line = line_of(&Denial::of(&event, &mut CgroupPaths::new().unwrap()));
        assert_eq!(
            (&line["message"], &line["level"]),
            (&"would_deny".into(), &"INFO".into())
        );
    }

    #[test]
    fn a_denial_is_one_line_with_everything_known() {
        let event = DenyEvent {
            repeated: 3,
            ..event()
        };
        let line = line_of(&Denial::of(&event, &mut CgroupPaths::new().unwrap()));
        assert_eq!(line["repeated"], 3);
        for (field, want) in [
            ("message", "denied"),
            ("reason", "no-proxy"),
            ("destination", "203.0.113.9:443"),
            ("protocol", "tcp"),
            ("hook", "connect6"),
            ("names", "a.example,b.example"),
            ("nearest", "a.example lists port 80"),
            ("comm", "cu?rl"),
            ("cgroup", ""),
        ] {
            assert_eq!(line[field], want, "{field}");
        }
        assert_eq!(line["pid"], 42);
    }

    #[test]
    fn numbers_of_another_kernel_side_are_still_logged() {
        let newer = DenyEvent {
            reason: 250,
            hook: 0,
            proto: 132,
            ..event()
        };
        let denial = Denial::of(&newer, &mut CgroupPaths::new().unwrap());
        assert_eq!(
            (denial.reason, denial.hook, denial.protocol.as_str()),
            ("unknown", "unknown", "132")
        );
    }
}
