//! Finds the entries of a port's lists by host, server name or address.
//!
//! The indices are built at the first lookup.

use super::PortRoutes;
use super::index::{Names, Place, Prefixes};
use std::net::IpAddr;

impl PortRoutes {
    /// What `accept` makes of a place in `hosts` for this canonical host: the most specific that it
    /// takes.
    pub(super) fn find_host<T>(
        &self,
        host: &str,
        accept: impl Fn(usize) -> Option<T>,
    ) -> Option<T> {
        let name_of = |place: Place| self.hosts[place.entry as usize].host.as_str();
        let places = || (0..self.hosts.len() as u32).map(|entry| Place { entry, name: 0 });
        self.index
            .hosts
            .get_or_init(|| Names::new(places(), name_of))
            .find(host, name_of, accept)
    }

    /// What `accept` makes of a place in `tls` for this canonical server name: the first that it
    /// takes.
    pub(super) fn find_tls<T>(&self, name: &str, accept: impl Fn(usize) -> Option<T>) -> Option<T> {
        let name_of =
            |place: Place| self.tls[place.entry as usize].sni_hosts[place.name as usize].as_str();
        let places = || {
            (0..).zip(&self.tls).flat_map(|(entry, route)| {
                (0..route.sni_hosts.len() as u32).map(move |name| Place { entry, name })
            })
        };
        self.index
            .tls
            .get_or_init(|| Names::new(places(), name_of))
            .find(name, name_of, accept)
    }

    /// What `accept` makes of a place in `tcp` for this destination: the first that it takes, of
    /// those for any bytes before the sniffed ones, so that these never take HTTP from them.
    pub(super) fn find_tcp<T>(
        &self,
        addr: IpAddr,
        accept: impl Fn(usize) -> Option<T>,
    ) -> Option<T> {
        let of = |sniffed: bool| {
            let routes = (0..).zip(&self.tcp);
            let routes = routes.filter(|(_, route)| route.sniffed == sniffed);
            Prefixes::new(
                routes.flat_map(|(entry, route)| route.nets.iter().map(move |net| (entry, *net))),
            )
        };
        let (any, sniffed) = self.index.tcp.get_or_init(|| (of(false), of(true)));
        any.find(addr, &accept)
            .or_else(|| sniffed.find(addr, &accept))
    }
}
