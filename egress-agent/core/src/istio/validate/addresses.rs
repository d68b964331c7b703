//! IP addresses, CIDR blocks and Unix socket paths, as Go's `net/netip` and Istio read them.

use super::check::Rule;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Prefix of an address that names a Unix socket.
pub const UNIX_PREFIX: &str = "unix://";

/// Whether a text is an IP address. An IPv6 one may have a zone (`fe80::1%eth0`).
pub fn is_ip(text: &str) -> bool {
    match text.split_once('%') {
        Some((address, zone)) => !zone.is_empty() && address.parse::<Ipv6Addr>().is_ok(),
        None => text.parse::<IpAddr>().is_ok(),
    }
}

/// An IP address.
pub fn ip(text: &str) -> Rule {
    if is_ip(text) {
        Ok(())
    } else {
        Err(format!("{text} is not a valid IP"))
    }
}

/// An IP address or a CIDR block, whose host bits may be set.
pub fn subnet(text: &str) -> Rule {
    if text.matches('/').count() != 1 {
        return ip(text);
    }
    let fits = text.split_once('/').is_some_and(|(address, bits)| {
        let most = if address.parse::<Ipv4Addr>().is_ok() {
            32
        } else if address.parse::<Ipv6Addr>().is_ok() {
            128
        } else {
            return false;
        };
        let canonical =
            bits == "0" || (!bits.starts_with('0') && bits.bytes().all(|b| b.is_ascii_digit()));
        canonical && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    if fits {
        Ok(())
    } else {
        Err(format!("{text} is not a valid CIDR block"))
    }
}

/// What follows `unix://`: an absolute path to a file, or `@` and an abstract name.
pub fn unix_path(path: &str) -> Rule {
    if path.is_empty() {
        return Err("unix address must not be empty".to_owned());
    }
    if path.starts_with('@') || (path.starts_with('/') && !path.ends_with('/')) {
        return Ok(());
    }
    Err(format!("{path} is not an absolute path to a file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_read_as_go_reads_them() {
        for (text, fits) in [
            ("10.0.0.1", true),
            ("10.1.2.3/8", true),
            ("2001:db8::/32", true),
            ("::ffff:1.2.3.4", true),
            ("fe80::1%eth0", true),
            ("fe80::%eth0/64", false),
            ("10.0.0.0/33", false),
            ("10.0.0.0/08", false),
            ("10.0.0.0/", false),
            ("10.0.0/8", false),
            ("010.0.0.1", false),
            ("1.2.3.4/8/8", false),
            ("", false),
        ] {
            assert_eq!(subnet(text).is_ok(), fits, "{text}");
        }
    }
}
