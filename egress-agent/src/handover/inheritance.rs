//! The listeners that a new agent starts with: those of a leaving agent, those that the service manager
//! kept, or, if only a previous agent's gate is left, a pair that the new agent opens before anything
//! else. So flows that are redirected while the agent starts wait in a queue instead of being denied.

use super::next::{Predecessor, StillServing};
use crate::config::{Config, Intercept};
use crate::gate::lock::Lock;
use crate::gate::own;
use crate::kernel::Redirects;
use crate::operate::manager;
use crate::sockets::{self, SocketFactory};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// See the module.
#[derive(Debug, Default)]
pub struct Inheritance {
    predecessor: Option<Predecessor>,
    listeners: Vec<OwnedFd>,
}

impl Inheritance {
    /// Finds the listeners. Called right after the lock was taken, before anything that takes time.
    pub fn take(config: &Config, lock: &Lock, roots: &[PathBuf]) -> Self {
        let predecessor = Predecessor::meet(&config.admin_socket, lock);
        let mut listeners = manager::kept();
        if predecessor.is_none() && listeners.is_empty() {
            listeners = early(config, roots).unwrap_or_default();
        }
        Self {
            predecessor,
            listeners,
        }
    }

    /// Gives the listeners to the factory. The returned future makes a leaving agent stop accepting; it
    /// must be awaited before the tables are written.
    pub async fn settle(
        self,
        sockets: &SocketFactory,
    ) -> impl Future<Output = anyhow::Result<()>> + use<> {
        sockets.inherit(self.listeners);
        let serving: Option<StillServing> = match self.predecessor {
            Some(predecessor) => predecessor.listeners().await.map(|(serving, listeners)| {
                let count = listeners.len();
                tracing::info!(listeners = count, "taking over from a leaving agent");
                sockets.inherit(listeners);
                serving
            }),
            None => None,
        };
        async {
            match serving {
                Some(serving) => Ok(serving.stop().await?),
                None => Ok(()),
            }
        }
    }
}

/// Closes inherited listeners of namespaces in which the agent does not serve, and removes them from the
/// service manager's store.
pub fn forget_unused(sockets: &SocketFactory) {
    sockets
        .close_inherited()
        .into_iter()
        .for_each(manager::forget);
}

/// Listens in the agent's own namespace, on the ports that the gate redirects to. `None` if that fails:
/// the agent logs the error when it opens its listeners.
fn early(config: &Config, roots: &[PathBuf]) -> Option<Vec<OwnedFd>> {
    // A socket belongs to the cgroup that its process is in when it creates the socket.
    let own = own::settle(config, roots).ok()?;
    let mut redirects = Redirects::standing(&config.bpf_dir, &own)?;
    let ports = redirects.ports(sockets::netns_here().ok()?)?;
    let mut listeners = sockets::listen_here(ports.port).ok()?;
    if config.dns.intercept == Intercept::Auto && ports.dns[0] != 0 {
        listeners.extend(sockets::dns_here(ports.dns).ok()?);
    }
    for listener in &listeners {
        redirects.admit(listener).ok()?;
    }
    Some(listeners)
}
