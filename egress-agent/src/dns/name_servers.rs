//! The agent's own name servers (`dns.servers`). Who asks questions makes a [`Server`] of each; those over TLS share one
//! connection.

use super::link::Link;
use super::server::Server;
use super::trust::Trust;
use crate::sockets::SocketFactory;
use arc_swap::ArcSwapOption;
use egress_core::dns::name_server::NameServer;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct NameServers {
    list: Arc<[(NameServer, Option<Arc<Link>>)]>,
    sockets: Arc<SocketFactory>,
    trust: Arc<ArcSwapOption<Trust>>,
}

/// Fails if there are no authorities for [`NameServers::new`]. Creates no socket.
pub fn check_trust(list: &[NameServer], authorities: Option<&Path>) -> anyhow::Result<()> {
    let encrypted = list.iter().any(|server| server.tls.is_some());
    let read = read_trust(encrypted, authorities);
    read.map(drop).map_err(anyhow::Error::msg)
}

fn read_trust(encrypted: bool, authorities: Option<&Path>) -> Result<Option<Trust>, String> {
    let needed = authorities.is_some() || encrypted;
    let read = needed.then(|| Trust::read(authorities)).transpose();
    read.map_err(|error| format!("{error:#}"))
}

/// A name server as `status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerState {
    /// As in the config: `IP:PORT`, or `tls://IP:PORT#NAME`.
    pub server: String,
    /// Why it cannot be asked over TLS at the moment.
    pub failing: Option<String>,
}

impl NameServers {
    /// Servers in the order in which they are asked. `authorities` is a PEM file for those over TLS; without it the
    /// system's are used.
    ///
    /// # Errors
    /// There are no authorities.
    pub fn new(
        list: &[NameServer],
        authorities: Option<&Path>,
        sockets: &Arc<SocketFactory>,
    ) -> anyhow::Result<Self> {
        let trust = Arc::default();
        let link = |server: &NameServer| {
            let link = Link::over_tls(server, sockets, &trust);
            anyhow::Ok((server.clone(), link?.map(Arc::new)))
        };
        let made = Self {
            list: list.iter().map(link).collect::<Result<_, _>>()?,
            sockets: Arc::clone(sockets),
            trust: Arc::clone(&trust),
        };
        if made.some_plain() && made.list.iter().any(|(_, link)| link.is_some()) {
            tracing::warn!(
                "dns.servers has servers over TLS and others: names may be asked without TLS; list only tls:// servers to rule that out"
            );
        }
        made.apply(made.trust_of(authorities).map_err(anyhow::Error::msg)?);
        Ok(made)
    }

    /// What makes the sockets of the questions.
    pub fn sockets(&self) -> &Arc<SocketFactory> {
        &self.sockets
    }

    fn some_plain(&self) -> bool {
        self.list.iter().any(|(_, link)| link.is_none())
    }

    /// The authorities of a file, for [`Self::apply`]. `None` if nothing needs them.
    ///
    /// # Errors
    /// There are no authorities: a line that says where, and what to do.
    pub fn trust_of(&self, authorities: Option<&Path>) -> Result<Option<Trust>, String> {
        let encrypted = self.list.iter().any(|(_, link)| link.is_some());
        read_trust(encrypted, authorities)
    }

    /// Uses these authorities from now on. Connections by other ones end.
    pub fn apply(&self, trust: Option<Trust>) {
        let current = self.trust.load();
        if current.as_deref() != trust.as_ref() {
            self.trust.store(trust.map(Arc::new));
        }
    }

    /// Each server, asked from the agent's network namespace.
    pub(super) fn make(&self) -> Vec<Arc<Server>> {
        let own = self.sockets.own_netns();
        let server = |(server, link): &(NameServer, Option<Arc<Link>>)| match link {
            Some(link) => Server::over_tls(link, &self.sockets),
            None => Server::new(server.address, &self.sockets, own),
        };
        self.list.iter().map(|one| Arc::new(server(one))).collect()
    }

    /// Each server and its state.
    pub fn states(&self) -> Vec<ServerState> {
        let state = |(server, link): &(NameServer, Option<Arc<Link>>)| ServerState {
            server: server.to_string(),
            failing: link.as_ref().and_then(|link| link.failing()),
        };
        self.list.iter().map(state).collect()
    }
}
