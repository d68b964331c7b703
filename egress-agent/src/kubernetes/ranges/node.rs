//! The address of the node's DNS cache (NodeLocal DNSCache), as the node's own network namespace has it. Only root of
//! the node can give it an address.

use super::collected::{Found, Use};
use super::collection::Collection;
use crate::kubernetes::Key;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

/// The interface that NodeLocal DNSCache makes for its address.
const INTERFACE: &str = "nodelocaldns";
/// The network namespace of the node's first process.
const NODE: &str = "/proc/1/net";
/// Time between two looks.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// The most bytes of a file.
const MAX_FILE_SIZE: u64 = 4 << 20;

/// Follows the address. Does not return.
pub(super) async fn follow(collection: Collection) {
    follow_in(Path::new(NODE), collection).await;
}

/// The same in the network namespace with this folder of `/proc`.
async fn follow_in(net: &Path, collection: Collection) {
    let key = Key {
        name: INTERFACE.to_owned(),
        ..Key::default()
    };
    // Unknown at first: the previous agent may have stored addresses that the node no longer has.
    let mut last = None;
    loop {
        let net = net.to_owned();
        let addresses = tokio::task::spawn_blocking(move || addresses(&net)).await;
        if let Ok(now) = addresses
            && last.as_ref() != Some(&now)
        {
            let found = now.iter().map(|ip| Found {
                of: Use::NodeDns,
                net: (*ip).into(),
            });
            collection.change(|all| all.put("node", &key, found.collect()));
            last = Some(now);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The cache's addresses; none if a file cannot be read.
fn addresses(net: &Path) -> Vec<IpAddr> {
    let text = |name: &str| {
        let mut text = String::new();
        let file = std::fs::File::open(net.join(name));
        let read = file.and_then(|file| file.take(MAX_FILE_SIZE).read_to_string(&mut text));
        read.map(|_| text).unwrap_or_default()
    };
    let has = |line: &str| line.trim_start().starts_with(&format!("{INTERFACE}:"));
    if !text("dev").lines().any(has) {
        return Vec::new();
    }
    let v4 = local_v4(&text("fib_trie")).into_iter().map(IpAddr::from);
    let v6 = v6_of(&text("if_inet6")).into_iter().map(IpAddr::from);
    v4.chain(v6).collect()
}

/// The node's own link-local addresses, from `fib_trie` (fib_trie_seq_show in net/ipv4/fib_trie.c), which names no
/// interface. Those beside a cloud's metadata server are left out: a proxy for it may have one.
fn local_v4(text: &str) -> Vec<Ipv4Addr> {
    let mut address = None;
    let mut all = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(leaf) = line.strip_prefix("|-- ") {
            address = leaf.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            all.extend(address.take());
        }
    }
    all.retain(|ip| ip.is_link_local() && ip.octets()[2] != 169);
    all.sort_unstable();
    all.dedup();
    all
}

/// The interface's addresses, from `if_inet6` (if6_seq_show in net/ipv6/addrconf.c).
fn v6_of(text: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [digits, _, _, scope, _, INTERFACE] = fields[..] else {
            return None;
        };
        // Scope 20 is link-local, which each interface has.
        (scope != "20").then_some(u128::from_str_radix(digits, 16).ok()?)
    };
    text.lines()
        .filter_map(address)
        .map(Ipv6Addr::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::collected::Collected;
    use super::*;
    use std::fs;

    const TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
     +-- 169.254.0.0/16 2 0 2
        |-- 169.254.20.10
           /32 host LOCAL
        |-- 169.254.169.254
           /32 host LOCAL
        |-- 169.254.255.255
           /32 link BROADCAST
     |-- 172.18.0.2
        /32 host LOCAL
";
    const SIX: &str = "\
00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000a0a 07 80 00 80 nodelocaldns
fe800000000000000000000000000001 07 40 20 80 nodelocaldns
";

    #[test]
    fn the_cache_has_the_address_of_its_interface() {
        let dir = tempfile::tempdir().unwrap();
        let all = || addresses(dir.path());
        assert!(all().is_empty());
        fs::write(dir.path().join("fib_trie"), TRIE).unwrap();
        fs::write(dir.path().join("if_inet6"), SIX).unwrap();
        fs::write(dir.path().join("dev"), "    lo: 1 2\n  eth0: 1 2\n").unwrap();
        assert!(all().is_empty(), "the node has no cache");
        fs::write(dir.path().join("dev"), "    lo: 1 2\nnodelocaldns: 0 0\n").unwrap();
        let expected: [IpAddr; 2] = [
            "169.254.20.10".parse().unwrap(),
            "fd00::a0a".parse().unwrap(),
        ];
        assert_eq!(all(), expected);
    }

    #[tokio::test]
    async fn an_address_of_the_previous_agent_ends_unless_the_node_still_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key {
            name: INTERFACE.to_owned(),
            ..Key::default()
        };
        let stored = Found {
            of: Use::NodeDns,
            net: "169.254.20.10/32".parse().unwrap(),
        };
        let after_a_look = async || {
            let mut collected = Collected::default();
            collected.put("node", &key, vec![stored]);
            let collection = Collection::new(collected);
            tokio::select! {
                () = follow_in(dir.path(), collection.clone()) => {}
                () = collection.changed() => {}
            }
            let ranges = collection.lock().ranges(&[]);
            ranges.all()
        };
        assert!(after_a_look().await.is_empty(), "the node has no cache");
        fs::write(dir.path().join("fib_trie"), TRIE).unwrap();
        fs::write(dir.path().join("dev"), "nodelocaldns: 0 0\n").unwrap();
        assert_eq!(after_a_look().await, [stored.net]);
    }

    #[test]
    fn the_kernel_writes_this_form() {
        let text = fs::read_to_string("/proc/net/fib_trie").unwrap();
        assert!(text.contains("/32 host LOCAL"), "{text}");
    }
}
