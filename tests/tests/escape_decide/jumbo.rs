//! TCP over 64 KiB in IPv6: the hop-by-hop header that the kernel itself puts in front passes, and no
//! header like it.

use super::kernel::{loaded, run};
use super::{list, v6};
use egress_ebpf::verdict::{Reason, Verdict};
use std::os::fd::AsFd as _;

/// The hop-by-hop header that the kernel puts in front of TCP over 64 KiB (RFC 2675 §2): TCP behind
/// it, eight bytes, the jumbo payload option of four, 100 000.
pub const HEADER: [u8; 8] = [6, 0, 0xc2, 4, 0, 1, 0x86, 0xa0];

/// Whether a packet has the kernel's own header for TCP over 64 KiB.
pub fn is_own(packet: &[u8]) -> bool {
    packet[0] >> 4 == 6 && packet.get(4..7) == Some(&[0; 3]) && packet.get(40..48) == Some(&HEADER)
}

/// An IPv6 packet with a hop-by-hop header like the kernel's own, but for one byte, and a payload
/// length. To listed and unlisted.
fn over_64k(change: (usize, u8), payload: u16, to: &str) -> Vec<u8> {
    let mut p = v6(0, to);
    p.truncate(40);
    p[4..6].copy_from_slice(&payload.to_be_bytes());
    p.extend_from_slice(&HEADER);
    p[40 + change.0] = change.1;
    p.extend_from_slice(&[0, 22, 0, 53, 0, 0, 0, 0]);
    p
}

#[test]
fn the_kernels_own_jumbo_header_passes_and_no_other() {
    let (mut ebpf, program) = loaded("decide_probe");
    list(&mut ebpf, &[("2001:db8::53", 6), ("2001:db8::53", 17)]);
    let (own, listed) = ((0, 6), "2001:db8::53");
    let with = |at, byte| over_64k((at, byte), 0, listed);
    let cut = |length: usize| over_64k(own, 0, listed)[..length].to_vec();
    let short = {
        let mut p = over_64k((5, 0), 0, listed);
        (p[46], p[47]) = (0xff, 0xff);
        p
    };
    let refused = Verdict::Deny(Reason::Unparsable);
    for (what, packet, want) in [
        ("its own", over_64k(own, 0, listed), Verdict::Allow),
        (
            "its own, not listed",
            over_64k(own, 0, "2001:db8::99"),
            Verdict::Deny(Reason::NotListed),
        ),
        ("a payload length", over_64k(own, 16, listed), refused),
        ("UDP behind it", with(0, 17), refused),
        ("ICMPv6 behind it", with(0, 58), refused),
        ("hop-by-hop behind it", with(0, 0), refused),
        ("routing behind it", with(0, 43), refused),
        ("a fragment behind it", with(0, 44), refused),
        ("sixteen bytes", with(1, 1), refused),
        ("a router alert", with(2, 5), refused),
        ("a PadN", with(2, 1), refused),
        ("an option that is skipped", with(2, 0x02), refused),
        ("an option of two bytes", with(3, 2), refused),
        ("a length that fits the field", short, refused),
        ("cut in the header", cut(47), refused),
        ("cut before the ports", cut(50), refused),
    ] {
        assert_eq!(run(program.as_fd(), &packet), want.number(), "{what}");
    }
}
