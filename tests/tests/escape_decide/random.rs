//! Random addresses, ports and packets, near enough to what rules name that every verdict comes up.

use super::{PROXY_PORT, jumbo};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// xorshift64*: the same numbers in every run.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.next()).unwrap() % of.len()]
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn v4(&mut self) -> Ipv4Addr {
        let host = self.byte() % 8;
        let own = Ipv4Addr::from([self.byte(), self.byte(), self.byte(), self.byte()]);
        self.pick(&[
            Ipv4Addr::new(203, 0, 113, host),
            Ipv4Addr::new(198, 51, 100, host),
            Ipv4Addr::new(10, host, 2, 3),
            Ipv4Addr::new(127, 0, 0, host),
            Ipv4Addr::UNSPECIFIED,
            own,
        ])
    }

    pub fn ip(&mut self) -> IpAddr {
        let v4 = self.v4();
        let [a, b, c, d] = v4.octets();
        let [high, low] = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
        let host = u16::from(self.byte() % 8);
        let last = self.next().to_be_bytes();
        match self.byte() % 12 {
            0..=4 => v4.into(),
            5 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into(),
            6 => Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1).into(),
            7 => Ipv6Addr::new(0x2001, 0, 1, 2, 3, 4, !high, !low).into(),
            8 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low).into(),
            9 => Ipv6Addr::from(u128::from(host % 2)).into(),
            10 => Ipv6Addr::new(0x2001, 0xdb8, u16::from(last[7]), 0, 0, 0, 0, 1).into(),
            _ => Ipv6Addr::new(0x2001, 0xdb8, host, 0, 0, 0, 0, host).into(),
        }
    }

    pub fn port(&mut self) -> u16 {
        let any = self.next() as u16;
        self.pick(&[0, 7, 53, 80, 443, 9000, PROXY_PORT, any])
    }

    /// Puts the kernel's own header of a TCP packet over 64 KiB behind the IPv6 header, or one that
    /// differs from it in one byte.
    fn large(&mut self, packet: &mut Vec<u8>) {
        (packet[0], packet[6]) = (0x60, 0);
        packet.extend_from_slice(&jumbo::HEADER);
        // Next header behind it, its length, the option, that one's length, the payload's length.
        let at = self.pick(&[4, 5, 6, 40, 41, 42, 43, 44, 45, 46, 47]);
        if self.byte() < 128 {
            packet[at] = self.pick(&[0, 1, 6, 17, 43]);
        }
    }

    pub fn packet(&mut self) -> Vec<u8> {
        let any = self.byte();
        let proto = self.pick(&[6, 6, 6, 6, 17, 17, 17, 1, 58, 132, 44, 0, 43, 60, any]);
        let mut packet = match self.ip() {
            IpAddr::V4(to) => {
                let mut p = vec![0; 20];
                p[0] = self.pick(&[0x45, 0x45, 0x45, 0x45, 0x46, 0x44]);
                p[6] = self.pick(&[0, 0x40, 0x40, 0x40, 0x20]);
                p[9] = proto;
                p[16..].copy_from_slice(&to.octets());
                p
            }
            IpAddr::V6(to) => {
                let mut p = vec![0; 40];
                p[0] = self.pick(&[0x60, 0x60, 0x60, 0x60, 0x6f, 0x50]);
                p[6] = proto;
                p[24..].copy_from_slice(&to.octets());
                if self.byte() < 48 {
                    self.large(&mut p);
                }
                p
            }
        };
        packet.extend_from_slice(&self.port().to_be_bytes());
        packet.extend_from_slice(&self.port().to_be_bytes());
        packet.resize(packet.len() + 4, 0);
        if self.byte() < 16 {
            let length = usize::try_from(self.next()).unwrap() % packet.len();
            packet.truncate(length.max(1));
        }
        packet
    }
}
