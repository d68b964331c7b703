//! Which addresses of a cluster one flow dials, in order.
//!
//! It dials nothing; where the turn stands comes in as a number.

use super::Cluster;
use std::net::SocketAddr;

/// The addresses to try: the one that the client dialled where the cluster has it, then the others
/// from the place that `turn` says, those of the client's address family first. Empty where the
/// cluster has none. With resolution NONE there is only what the client dialled.
pub fn candidates(cluster: &Cluster, dialled: SocketAddr, turn: usize) -> Vec<SocketAddr> {
    let dialled = SocketAddr::new(dialled.ip().to_canonical(), dialled.port());
    if let Some(port) = cluster.original_dst {
        return vec![SocketAddr::new(dialled.ip(), port)];
    }
    let mut order: Vec<SocketAddr> = cluster.endpoints.clone();
    if !order.is_empty() {
        let turn = turn % order.len();
        order.rotate_left(turn);
    }
    // Stable: the turn stays within each class.
    order.sort_by_key(|endpoint| {
        (
            *endpoint != dialled,
            endpoint.is_ipv4() != dialled.is_ipv4(),
        )
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(endpoints: &[&str], original_dst: Option<u16>) -> Cluster {
        let endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        Cluster {
            host: "httpbin.org".into(),
            port: 80,
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
                candidates(&cluster(&three, None), dialled.parse().unwrap(), turn),
                order,
                "{dialled} {turn}"
            );
        }
        assert_eq!(
            candidates(&cluster(&[], None), "192.0.2.1:80".parse().unwrap(), 3),
            vec![]
        );
    }

    #[test]
    fn resolution_none_dials_what_the_client_dialled_on_the_clusters_port() {
        let none = cluster(&[], Some(8080));
        assert_eq!(
            candidates(&none, "[::ffff:203.0.113.9]:80".parse().unwrap(), 0),
            vec!["203.0.113.9:8080".parse().unwrap()]
        );
    }
}
