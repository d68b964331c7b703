//! The cluster's own ranges, collected from the objects that name them. Pure.
//!
//! Destinations in these ranges are allowed without a rule, so a range that is far too wide is refused: it would open
//! the gate by a mistake of one object.

use crate::kubernetes::Key;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// Whose addresses a range has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Use {
    /// Pods.
    Pods,
    /// Services, and so the cluster's DNS.
    Services,
    /// Nodes.
    Nodes,
    /// API servers.
    ApiServer,
    /// The DNS cache of the node.
    NodeDns,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pods => "pods of the cluster",
            Self::Services => "Services of the cluster",
            Self::Nodes => "nodes of the cluster",
            Self::ApiServer => "API servers",
            Self::NodeDns => "DNS cache of the node",
        })
    }
}

/// A range that an object names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Found {
    /// Whose addresses it has.
    pub of: Use,
    /// The range, without bits beyond its prefix.
    pub net: IpNet,
}

/// The shortest prefixes that are accepted. 10.0.0.0/8 is a usual range of pods; nothing usual is wider.
const WIDEST: (u8, u8) = (8, 16);

/// The ranges of each source, by the plural name of its kind. A source keeps what it last had until all of its objects
/// were read again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Collected(BTreeMap<String, BTreeMap<String, Vec<Found>>>);

/// The cluster's ranges, adjacent ones joined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ranges {
    /// Ranges by whose they are.
    pub found: BTreeMap<Use, Vec<IpNet>>,
    /// Ranges that objects name and that are not used, each with the reason.
    pub refused: Vec<String>,
}

impl Collected {
    /// Whether an object has one of these addresses.
    pub(super) fn has(&self, source: &str, key: &Key, addresses: &[IpAddr]) -> bool {
        let object = self.0.get(source).and_then(|of| of.get(&key.to_string()));
        let is = |found: &Found, ip: &IpAddr| found.net == IpNet::from(*ip);
        let mut ranges = object.into_iter().flatten();
        ranges.any(|found| addresses.iter().any(|ip| is(found, ip)))
    }

    /// Sets the ranges of an object.
    pub(super) fn put(&mut self, source: &str, key: &Key, ranges: Vec<Found>) {
        let source = self.0.entry(source.to_owned()).or_default();
        source.insert(key.to_string(), ranges);
    }

    /// Removes an object. The last one stays if there must `always` be one.
    pub(super) fn remove(&mut self, source: &str, key: &Key, always: bool) {
        if let Some(objects) = self.0.get_mut(source)
            && (objects.len() > 1 || !always)
        {
            objects.remove(&key.to_string());
        }
    }

    /// Removes all objects of a source except these. If these are none and there must `always` be one, all stay.
    pub(super) fn keep(&mut self, source: &str, keys: &BTreeSet<String>, always: bool) {
        if let Some(objects) = self.0.get_mut(source)
            && (!keys.is_empty() || !always)
        {
            objects.retain(|key, _| keys.contains(key));
        }
    }

    /// What to use of all this. Ranges with one of the `reserved` addresses are refused.
    pub(super) fn ranges(&self, reserved: &[IpAddr]) -> Ranges {
        let mut all: BTreeMap<Use, Vec<IpNet>> = BTreeMap::new();
        let mut refused = BTreeSet::new();
        for (source, objects) in &self.0 {
            for (key, found) in objects
                .iter()
                .flat_map(|(key, all)| all.iter().map(move |f| (key, f)))
            {
                match why_not(&found.net, reserved) {
                    None => all.entry(found.of).or_default().push(found.net),
                    Some(why) => {
                        refused.insert(format!("{} of {source} {key}: {why}", found.net));
                    }
                }
            }
        }
        let joined = all
            .into_iter()
            .map(|(of, nets)| (of, IpNet::aggregate(&nets)));
        Ranges {
            found: joined.collect(),
            refused: refused.into_iter().collect(),
        }
    }
}

/// Why a range is not used.
fn why_not(net: &IpNet, reserved: &[IpAddr]) -> Option<&'static str> {
    let widest = if net.addr().is_ipv4() {
        WIDEST.0
    } else {
        WIDEST.1
    };
    let address = net.addr();
    if net.prefix_len() < widest {
        Some("it is too wide to be the cluster's")
    } else if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        Some("no host of a cluster has such an address")
    } else if reserved.iter().any(|own| net.contains(own)) {
        Some("the agent tests the gate with an address in it")
    } else {
        None
    }
}

impl Ranges {
    /// All ranges, adjacent ones joined.
    pub fn all(&self) -> Vec<IpNet> {
        let all: Vec<IpNet> = self.found.values().flatten().copied().collect();
        IpNet::aggregate(&all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            namespace: String::new(),
            name: name.to_owned(),
        }
    }

    fn pods(nets: &[&str]) -> Vec<Found> {
        let found = |net: &&str| Found {
            of: Use::Pods,
            net: net.parse().unwrap(),
        };
        nets.iter().map(found).collect()
    }

    #[test]
    fn adjacent_ranges_are_one() {
        let mut collected = Collected::default();
        for n in 0..4 {
            let node = key(&format!("node-{n}"));
            collected.put("nodes", &node, pods(&[&format!("10.244.{n}.0/24")]));
        }
        let ranges = collected.ranges(&[]);
        assert_eq!(ranges.found[&Use::Pods], ["10.244.0.0/22".parse().unwrap()]);
        collected.remove("nodes", &key("node-3"), true);
        assert_eq!(collected.ranges(&[]).all().len(), 2);
        collected.keep("nodes", &BTreeSet::from(["node-0".to_owned()]), true);
        assert_eq!(
            collected.ranges(&[]).all(),
            ["10.244.0.0/24".parse().unwrap()]
        );
    }

    #[test]
    fn a_cluster_has_always_a_node_whatever_the_server_lists() {
        let mut collected = Collected::default();
        for source in ["nodes", "ippools"] {
            let always = source == "nodes";
            collected.put(source, &key("a"), pods(&["10.244.0.0/24"]));
            collected.remove(source, &key("a"), always);
            assert_eq!(collected.ranges(&[]).all().len(), usize::from(always));
            collected.put(source, &key("a"), pods(&["10.244.0.0/24"]));
            collected.keep(source, &BTreeSet::new(), always);
            assert_eq!(collected.ranges(&[]).all().len(), usize::from(always));
            collected.keep(source, &BTreeSet::from(["b".to_owned()]), always);
            assert!(collected.ranges(&[]).all().is_empty());
        }
    }

    #[test]
    fn a_range_that_is_no_clusters_is_refused_with_a_reason() {
        let mut collected = Collected::default();
        let wrong = [
            "0.0.0.0/0",
            "::/0",
            "11.0.0.0/7",
            "127.0.0.0/8",
            "224.0.0.0/8",
            "192.0.2.0/24",
        ];
        collected.put("nodes", &key("a"), pods(&wrong));
        collected.put("nodes", &key("b"), pods(&["10.0.0.0/8"]));
        let ranges = collected.ranges(&["192.0.2.1".parse().unwrap()]);
        assert_eq!(ranges.all(), ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(ranges.refused.len(), wrong.len(), "{:?}", ranges.refused);
        assert!(
            ranges.refused[0].contains(" of nodes a: "),
            "{:?}",
            ranges.refused
        );
    }

    #[test]
    fn what_is_stored_comes_back() {
        let mut collected = Collected::default();
        collected.put("ippools", &key("a"), pods(&["10.0.0.0/16", "fd00::/56"]));
        let text = serde_json::to_string(&collected).unwrap();
        assert_eq!(serde_json::from_str::<Collected>(&text).unwrap(), collected);
    }
}
