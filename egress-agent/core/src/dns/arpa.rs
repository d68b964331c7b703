//! Addresses in names of the reverse zones, `in-addr.arpa` and `ip6.arpa`.

use super::text::below;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a name of a reverse zone stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reverse {
    /// One address.
    Address(IpAddr),
    /// Part of an address, or none.
    Other,
}

/// Reads a name in canonical form; `None` if it is not in a reverse zone.
pub(super) fn reverse(name: &str) -> Option<Reverse> {
    let v4 = below(name, "in-addr.arpa").map(|labels| v4(labels).map(IpAddr::V4));
    let found = v4.or_else(|| below(name, "ip6.arpa").map(|labels| v6(labels).map(IpAddr::V6)));
    Some(found?.map_or(Reverse::Other, Reverse::Address))
}

fn v4(labels: &str) -> Option<Ipv4Addr> {
    let mut octets = labels.rsplit('.').map(|label| {
        // No second spelling of a number.
        let plain = label.len() == 1 || !label.starts_with(['0', '+']);
        label.parse::<u8>().ok().filter(|_| plain)
    });
    let mut next = || octets.next()?;
    let ip = Ipv4Addr::new(next()?, next()?, next()?, next()?);
    octets.next().is_none().then_some(ip)
}

fn v6(labels: &str) -> Option<Ipv6Addr> {
    let mut bits = 0_u128;
    let mut count = 0;
    for label in labels.rsplit('.') {
        let [digit] = label.as_bytes() else {
            return None;
        };
        bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
        count += 1;
    }
    (count == 32).then_some(Ipv6Addr::from(bits))
}

#[cfg(test)]
mod tests {
    use super::{Reverse, reverse};

    #[test]
    fn whole_addresses_are_read_and_nothing_else() {
        let one = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        let address = |ip: &str| Some(Reverse::Address(ip.parse().unwrap()));
        for (name, expected) in [
            ("4.3.2.1.in-addr.arpa", address("1.2.3.4")),
            (one, address("2001:db8::1")),
            ("3.2.1.in-addr.arpa", Some(Reverse::Other)),
            ("secret.4.3.2.1.in-addr.arpa", Some(Reverse::Other)),
            ("04.3.2.1.in-addr.arpa", Some(Reverse::Other)),
            ("256.3.2.1.in-addr.arpa", Some(Reverse::Other)),
            (&one[2..], Some(Reverse::Other)),
            ("in-addr.arpa", None),
            ("example.com", None),
        ] {
            assert_eq!(reverse(name), expected, "{name}");
        }
    }
}
