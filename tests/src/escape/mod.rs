//! The ways past a gate, each by name: the attempt, its family, the expected result, and the hook
//! that closes it.
//!
//! `table` and `rows` list them, and are the source of the documentation. The probes, which run behind the gate, are in
//! one file for each kind of socket, and use the calls of `sock`. `trial` and `scenarios` run them, `capture` records
//! what arrives outside, `suite` combines them.

pub mod capture;
mod cell;
mod claimed;
mod families;
mod flows;
mod forged;
mod held;
mod ip;
mod neighbours;
pub mod page;
mod raw;
mod rows;
mod scenarios;
mod served;
pub mod sock;
pub mod staged;
pub mod suite;
pub mod table;
mod tcp;
mod trial;
mod udp;
mod uring;

use std::net::{IpAddr, SocketAddr};

pub use sock::{Step, Stop};

/// The addresses for a probe.
#[derive(Debug, Clone)]
pub struct Aim {
    /// The destination that it tries to reach.
    pub to: SocketAddr,
    /// A destination of the same family that a rule lists, straight through.
    pub listed: SocketAddr,
    /// A destination that a rule sends to the proxy.
    pub proxied: SocketAddr,
    /// The address of this node towards the outside.
    pub own: IpAddr,
    /// The proxy's port.
    pub proxy_port: u16,
}

/// The device that leads to the outside.
pub const DEVICE: &str = "out0";

/// The payload of every probe, by which its frames are recognised.
pub const PAYLOAD: &[u8] = b"let me out";

impl Aim {
    /// The loopback address of the family.
    pub fn loopback(&self) -> IpAddr {
        if self.to.is_ipv4() {
            IpAddr::from([127, 0, 0, 1])
        } else {
            IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16])
        }
    }

    /// The unspecified address of the family.
    pub fn unspecified(&self) -> IpAddr {
        if self.to.is_ipv4() {
            IpAddr::from([0; 4])
        } else {
            IpAddr::from([0; 16])
        }
    }

    /// An IPv4 address in its IPv6 form.
    pub fn mapped(address: SocketAddr) -> SocketAddr {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        SocketAddr::new(ip.into(), address.port())
    }
}
