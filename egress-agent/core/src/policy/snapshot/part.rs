//! What one port of one service adds to the routes of its port.

use crate::istio::{Object, hosts};
use crate::routing::{Rank, TcpRoute, TlsRoute, VirtualHost};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::sync::Arc;

/// One port of one service. Ordered by port, then the most specific host first.
pub(super) type Door = (u16, (bool, Reverse<usize>, Arc<str>));

pub(super) fn door(port: u16, host: &Arc<str>) -> Door {
    let (wildcard, length, _) = hosts::specificity(host);
    (port, (wildcard, length, Arc::clone(host)))
}

/// The door that sorts before all others.
pub(super) fn first_door() -> Door {
    (0, (false, Reverse(usize::MAX), Arc::default()))
}

/// What one port of one service adds to the port's routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Part {
    pub(super) host: Option<Arc<VirtualHost>>,
    /// `addresses` of the entries.
    pub(super) addresses: Vec<IpNet>,
    /// Resolution NONE: an address in these networks is dialled as it is.
    pub(super) as_dialled: bool,
    /// Resolution NONE, and some entry has no `addresses`: any address is allowed.
    pub(super) anywhere: bool,
    /// Of `VirtualService`s.
    pub(super) tls: Vec<Arc<TlsRoute>>,
    pub(super) own_name: Option<Arc<TlsRoute>>,
    pub(super) tcp: Vec<Arc<TcpRoute>>,
    /// If there is `tcp`: of two services with one address, the older one has the route.
    pub(super) age: Option<Age>,
}

/// The object that a service's age is that of.
#[derive(Clone, Debug)]
pub(super) struct Age(pub(super) Arc<Object>);

impl PartialEq for Age {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Part {
    /// Whether its hosts and server names are found by address.
    pub(super) fn is_addressed(&self) -> bool {
        self.anywhere || !self.addresses.is_empty()
    }

    /// The networks of its routes for bytes.
    pub(super) fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.tcp
            .iter()
            .flat_map(|route| &route.nets)
            .map(IpNet::trunc)
    }

    /// Its entries that are found by name, each with its rank among those of one name: the routes of a `VirtualService`
    /// come before the service's own name.
    pub(super) fn tls(&self, host: &Arc<str>) -> impl Iterator<Item = (Rank, &Arc<TlsRoute>)> {
        let ruled = (0..).zip(&self.tls);
        let ruled = ruled.map(|(number, route)| (Rank::Of(Arc::clone(host), number), route));
        let own = self.own_name.iter().map(|route| (Rank::Last, route));
        ruled.chain(own)
    }
}
