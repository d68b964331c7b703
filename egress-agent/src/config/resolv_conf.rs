//! Reads the name servers of resolv.conf(5), and no other option: the agent asks for complete names, so
//! search domains and `ndots` do not matter.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The servers of `/etc/resolv.conf`. If it names none, the local one, as resolv.conf(5) says.
pub(super) fn system_servers() -> Vec<SocketAddr> {
    let servers =
        std::fs::read_to_string("/etc/resolv.conf").map_or_else(|_| Vec::new(), |t| parse(&t));
    if servers.is_empty() {
        vec![(Ipv4Addr::LOCALHOST, 53).into()]
    } else {
        servers
    }
}

fn parse(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then_some(words.next()?.parse::<IpAddr>().ok()?)
        })
        .map(|ip| (ip, 53).into())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn only_name_servers_are_read() {
        let text = "# nameserver 192.0.2.7\nsearch example.com\nnameserver 192.0.2.1\n\
                    nameserver\t2001:db8::1 # second\noptions ndots:5\nnameserver fe80::1%eth0\nnameserver\n";
        let seen: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(seen, ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }
}
