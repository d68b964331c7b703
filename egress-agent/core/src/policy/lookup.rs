//! The kernel's lookup over a policy's desired table, so that `decide()` can run on the host.
//!
//! The ledger has the entries.

use super::ledger::Ledger;
use super::tables::{Action, Target, Transport};
use egress_ebpf::abi::proto;
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::{Destination, Tables};
use egress_ebpf::ids::TableId;
use std::net::IpAddr;

impl Tables for Ledger {
    /// Looks in the kernel's order: the address on the port, the narrowest network on the port, the narrowest
    /// network on any port. A ledger is a single table, so the id does not matter.
    fn find(&self, _: TableId, shortest: u32, to: &Destination) -> Option<u32> {
        let transport = match to.proto {
            proto::TCP => Transport::Tcp,
            proto::UDP => Transport::Udp,
            _ => return None,
        };
        let ip = IpAddr::from(to.addr);
        let at = |target: &Target| self.action(target).map(Action::number);
        // In an entry, port 0 means any port.
        let exact = || at(&Target::address(to.addr, to.port, transport));
        let narrowest = |port| {
            networks(to.addr, ip, port, transport)
                .filter(|target| u32::from(target.bits()) >= shortest)
                .find_map(|target| at(&target))
        };
        let on_port = || exact().or_else(|| narrowest(to.port));
        (to.port != 0)
            .then(on_port)
            .flatten()
            .or_else(|| narrowest(0))
    }
}

impl Ledger {
    /// Whether the table names an address on a port: itself or a network around it, but not the
    /// entry for every address.
    pub(super) fn names(&self, ip: IpAddr, port: u16, transport: Transport) -> bool {
        let addr = Addr::from(ip).canonical();
        let exact = Target::address(addr, port, transport);
        let every = |target: &Target| *target == Target::any(target.port(), transport);
        let mut around = [port, 0]
            .into_iter()
            .flat_map(|port| networks(addr, ip, port, transport))
            .filter(|target| !every(target));
        self.action(&exact).is_some() || around.any(|target| self.action(&target).is_some())
    }
}

/// Every network that contains an address, the narrowest first: the networks of its family, then the one of both
/// families.
fn networks(
    addr: Addr,
    ip: IpAddr,
    port: u16,
    transport: Transport,
) -> impl Iterator<Item = Target> {
    let full = if ip.is_ipv4() { 32 } else { 128 };
    let lengths = (0..=full).rev();
    let of = move |bits| ipnet::IpNet::new(ip, bits).ok().map(|net| net.trunc());
    lengths
        .filter_map(of)
        .flat_map(move |net| Target::network(net, port, transport))
        // `::/0` is listed as two halves, one of which contains the address.
        .filter(move |target| target.covers(addr, port, transport))
        // A single address on a port is not a network.
        .filter(|target| !target.is_exact())
        .chain([Target::any(port, transport)])
}
