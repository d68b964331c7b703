//! Which addresses of a cluster one flow dials, in order.
//!
//! It dials nothing, and advances the round robin only if there is a choice.

use super::Cluster;
use super::turns::weighted;
use std::net::SocketAddr;

/// The addresses to try. If the cluster is balanced, the first is the endpoint whose turn it is. Otherwise it is the
/// dialled address if the cluster has it, else the endpoint of the client's address family whose turn it is. The others
/// follow, those of the client's family first. Empty if the cluster has none. With resolution NONE there is only the
/// dialled address.
pub fn candidates(
    cluster: &Cluster,
    dialled: SocketAddr,
    turn: impl FnOnce() -> usize,
) -> Vec<SocketAddr> {
    let dialled = SocketAddr::new(dialled.ip().to_canonical(), dialled.port());
    if let Some(port) = cluster.original_dst {
        return vec![SocketAddr::new(dialled.ip(), port)];
    }
    let mut order: Vec<SocketAddr> = cluster.endpoints.clone();
    let other_family = |endpoint: &SocketAddr| endpoint.is_ipv4() != dialled.is_ipv4();
    if !cluster.balanced {
        order.sort_by_key(other_family);
        // A flow to the dialled address takes no turn.
        if let Some(at) = order.iter().position(|endpoint| *endpoint == dialled) {
            order[..=at].rotate_right(1);
            return order;
        }
    }
    let near = order.iter().filter(|e| !other_family(e)).count();
    let chosen_from = match near {
        near @ 1.. if !cluster.balanced => near,
        _ => order.len(),
    };
    let turn = turn();
    let at = if cluster.balanced && !cluster.weights.is_empty() {
        Some(weighted(cluster.weights.iter().copied(), turn)).filter(|at| *at < chosen_from)
    } else {
        turn.checked_rem(chosen_from)
    };
    if let Some(at) = at {
        order[..chosen_from].rotate_left(at);
        // The sort is stable, so the order of the turn stays within each family.
        order[1..].sort_by_key(other_family);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::ClusterId;

    fn cluster(endpoints: &[&str], original_dst: Option<u16>) -> Cluster {
        let endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        Cluster {
            id: ClusterId::new("httpbin.org", 80),
            endpoints,
            original_dst,
            ..Cluster::default()
        }
    }

    #[test]
    fn the_dialled_address_comes_first_where_the_cluster_has_it_and_never_else() {
        let three = ["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"];
        for (dialled, turn, order) in [
            (
                "192.0.2.2:80",
                0,
                vec!["192.0.2.2:80", "192.0.2.1:80", "[2001:db8::1]:80"],
            ),
            (
                "[::ffff:192.0.2.2]:80",
                0,
                vec!["192.0.2.2:80", "192.0.2.1:80", "[2001:db8::1]:80"],
            ),
            (
                "[2001:db8::1]:80",
                0,
                vec!["[2001:db8::1]:80", "192.0.2.1:80", "192.0.2.2:80"],
            ),
            (
                "203.0.113.9:80",
                0,
                vec!["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"],
            ),
            (
                "203.0.113.9:80",
                1,
                vec!["192.0.2.2:80", "192.0.2.1:80", "[2001:db8::1]:80"],
            ),
            (
                "192.0.2.2:8080",
                0,
                vec!["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"],
            ),
        ] {
            let order: Vec<SocketAddr> = order
                .into_iter()
                .map(|text| text.parse().unwrap())
                .collect();
            assert_eq!(
                candidates(&cluster(&three, None), dialled.parse().unwrap(), || turn),
                order,
                "{dialled} {turn}"
            );
        }
        assert_eq!(
            candidates(&cluster(&[], None), "192.0.2.1:80".parse().unwrap(), || 3),
            vec![]
        );
    }

    #[test]
    fn resolution_none_dials_what_the_client_dialled_on_the_clusters_port() {
        let none = cluster(&[], Some(8080));
        assert_eq!(
            candidates(&none, "[::ffff:203.0.113.9]:80".parse().unwrap(), || 0),
            vec!["203.0.113.9:8080".parse().unwrap()]
        );
    }
}
