//! The hint of a log line about an address: its hosts, and the nearest rule.
//!
//! Owns the text. Decides nothing.

use super::index::{Names, Sight};
use crate::policy::claims::{UnlistedAddress, transport};
use crate::policy::tables::Transport;
use crate::registry::services::{Class, Entry, Port, Service};
use egress_ebpf::abi::MAX_DEPTH;
use egress_ebpf::addr::Addr;
use egress_ebpf::ids::PolicyId;
use egress_ebpf::verdict::Reason;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// The most hosts that one hint names.
const NAMED: usize = 3;
/// The most hosts that one search considers: thousands may list an address of a large network.
const LOOKED_AT: usize = 64;

impl Names {
    /// Hosts of the services that have this address at the moment, or would have it if it were public; sorted, at most
    /// 64.
    pub fn of(&self, addr: IpAddr) -> Vec<String> {
        let mut hosts = self.hosts_of(addr);
        hosts.extend(self.hosts_left_out(addr));
        let hosts = hosts.iter().take(LOOKED_AT);
        hosts.map(ToString::to_string).collect()
    }

    fn hosts_of(&self, addr: IpAddr) -> BTreeSet<&Arc<str>> {
        let addr = Addr::from(addr).canonical();
        let leased = self.users_of(self.addresses.names_of(addr));
        let listed = self.hosts.listed.of(addr);
        leased
            .take(LOOKED_AT)
            .chain(listed.take(LOOKED_AT))
            .collect()
    }

    /// Hosts from whose answers this address was left out because it is not public, sorted.
    fn hosts_left_out(&self, addr: IpAddr) -> BTreeSet<&Arc<str>> {
        let names = self.addresses.names_left_out(Addr::from(addr));
        self.users_of(names).take(LOOKED_AT).collect()
    }

    fn users_of<'a>(
        &'a self,
        names: impl Iterator<Item = &'a Arc<str>>,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        // A learned name has no service of its own.
        names.flat_map(|name| {
            let mut users = self.hosts.users_of(name).peekable();
            let own = users.peek().is_none().then_some(name);
            users.chain(own)
        })
    }

    /// One line about the rule that is nearest to a flow that `policy` denied for this reason, and the setting that
    /// would allow it. `None` if no rule has the address.
    pub fn nearest(
        &self,
        policy: PolicyId,
        addr: IpAddr,
        port: u16,
        via: Transport,
        reason: Reason,
    ) -> Option<String> {
        let sight = self.hosts.views.get(&policy)?;
        let visible = |hosts: BTreeSet<&Arc<str>>| -> Vec<&Arc<Service>> {
            let services = hosts.into_iter().filter_map(|host| sight.service(host));
            services.collect()
        };
        let here = visible(self.hosts_of(addr));
        let lists_port = |s: &&Arc<Service>| s.class(port).is_some_and(|c| transport(c) == via);
        if let Some(service) = here.iter().copied().find(lists_port) {
            return Some(denied_though_listed(&service.host, port, via, reason));
        }
        let left_out = visible(self.hosts_left_out(addr));
        if let Some(service) = left_out.iter().copied().find(lists_port) {
            return Some(format!(
                "{} lists port {port}; DNS gives it this address, which is not public: \
                 allowPrivateAnswers accepts all such addresses, privateAnswers those of one network",
                service.host
            ));
        }
        if let Some(service) = sight.first_unspelt(port, via) {
            return Some(unspelt(service, port));
        }
        let hint = moved(
            self.rotating(sight).filter(lists_port),
            port,
            self.hosts.unlisted,
        );
        hint.or_else(|| {
            let service = here.first().or(left_out.first())?;
            Some(format!("{} lists {}", service.host, ports(service)))
        })
    }

    /// Services of a view whose answers keep changing, within the limit of one search.
    fn rotating<'a>(&'a self, sight: &'a Sight) -> impl Iterator<Item = &'a Arc<Service>> {
        let hosts = self.users_of(self.addresses.rotating());
        hosts.take(LOOKED_AT).filter_map(|host| sight.service(host))
    }
}

/// Why a flow to a listed address and port is denied.
fn denied_though_listed(host: &str, port: u16, via: Transport, reason: Reason) -> String {
    let why = match reason {
        Reason::NoProxy => {
            return format!(
                "port {port} of {host} is allowed through the proxy, and this network namespace has \
                 no proxy yet"
            );
        }
        Reason::CgroupDepth => {
            return format!(
                "port {port} of {host} is listed, but the socket's cgroup is more than {MAX_DEPTH} \
                 levels deep: run the workload in a cgroup nearer to the root"
            );
        }
        Reason::UnknownOwner => {
            "the kernel does not know the ancestors of the socket's cgroup; the next socket that is \
             made in the cgroup brings them back"
        }
        Reason::ForgedSource => "the source address is not one of the network namespace",
        Reason::NoDns => {
            "queries to DNS servers go to the agent, and this one did not: this network namespace has no DNS server \
             of the agent yet, or the socket is older than `dns.intercept`"
        }
        Reason::ProxyPort => "a port of the agent itself was dialled",
        Reason::FlowTableFull => "the table of redirected flows is full",
        Reason::State => "the kernel has no state of the socket",
        Reason::Unparsable => "the packet is malformed, a fragment, or has extension headers",
        Reason::Protocol => "no rule can list the socket's protocol",
        Reason::NotListed => match via {
            Transport::Udp => {
                "UDP to spec.addresses and to a port with another targetPort is denied, and to a host with a rule that \
                 is invalid or not carried out"
            }
            Transport::Tcp => "its addresses changed at the moment of the denial",
        },
    };
    format!("port {port} of {host} is listed, but {why}")
}

/// The settings that help if the answers of services keep changing and the denied address is from an answer that the
/// agent has not seen.
fn moved<'a>(
    services: impl Iterator<Item = &'a Arc<Service>>,
    port: u16,
    unlisted: UnlistedAddress,
) -> Option<String> {
    let by_name = |s: &Arc<Service>| s.class(port).is_some_and(Class::needs_name);
    // With byName the kernel redirects every address to the proxy on a port whose names are checked.
    let mut services = services.filter(|s| !(by_name(s) && unlisted == UnlistedAddress::ByName));
    let first = services.next()?;
    let setting = if by_name(first) {
        "unlistedAddress: byName decides by name instead of address"
    } else {
        "dns.minTTL and dns.grace keep addresses longer, spec.addresses lists networks"
    };
    let alike = services.filter(|s| by_name(s) == by_name(first));
    let hosts: BTreeSet<&str> = std::iter::once(first)
        .chain(alike)
        .map(|s| &*s.host)
        .take(NAMED)
        .collect();
    let hosts = hosts.into_iter().collect::<Vec<_>>().join(", ");
    Some(format!(
        "port {port} is listed for {hosts}, whose DNS answers change; if this address is in one of \
         them: {setting}"
    ))
}

/// What to write in a rule whose port serves nothing because nobody wrote that it is open to any address.
pub(in crate::policy) fn unspelt(service: &Service, port: u16) -> String {
    format!(
        "port {port} of {} serves nothing, because its resolution is not spelt out: write resolution: NONE \
         if the port shall be open to any address, DNS or STATIC if not",
        service.host
    )
}

/// The entry of a service that lists a port that serves nothing, because it would be open to any address although
/// nobody wrote so.
pub(in crate::policy) fn lists_unspelt(
    service: &Service,
    port: u16,
    via: Transport,
) -> Option<&Arc<Entry>> {
    let is_it = |p: &Port| p.number == port && transport(p.class) == via;
    let mut entries = service.entries.iter();
    entries.find(|e| e.unspelt.iter().any(is_it))
}

/// The ports of a service, in words.
pub(in crate::policy) fn ports(service: &Service) -> String {
    let one = |(n, p): (u16, &crate::registry::services::Port)| match transport(p.class) {
        Transport::Tcp => n.to_string(),
        Transport::Udp => format!("{n}/udp"),
    };
    let all: Vec<_> = service.ports().into_iter().map(one).collect();
    match all.as_slice() {
        [] => "no port".to_owned(),
        [port] => format!("port {port} only"),
        [first @ .., last] => format!("ports {} and {last} only", first.join(", ")),
    }
}
