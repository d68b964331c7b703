//! The listeners that a new agent begins with: a leaving agent's, those that the service manager kept,
//! or, where a previous agent left its gate, a pair that listens before anything else. So what is
//! redirected while the agent starts waits for it instead of being denied.

use super::next::{Predecessor, StillServing};
use crate::config::Config;
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
    /// Takes what there is, right after the lock was taken and before anything that takes time.
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

    /// Gives the listeners to the factory. What is returned makes a leaving agent accept no more, and
    /// has to be done before the tables are written.
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

/// Closes the listeners of namespaces in which the agent serves nobody; the service manager keeps them
/// no longer.
pub fn forget_unused(sockets: &SocketFactory) {
    sockets
        .close_inherited()
        .into_iter()
        .for_each(manager::forget);
}

/// Listens in the agent's own namespace, on the port that the gate redirects to. What keeps it from
/// that is found again, and said, when the agent opens its listeners.
fn early(config: &Config, roots: &[PathBuf]) -> Option<Vec<OwnedFd>> {
    // A socket belongs to the cgroup that its process is in when it is made.
    let own = own::settle(config.agent_cgroup.as_deref(), roots).ok()?;
    let mut redirects = Redirects::standing(&config.bpf_dir, &own)?;
    let port = redirects.port(sockets::netns_here().ok()?)?;
    let listeners = sockets::listen_here(port).ok()?;
    for listener in &listeners {
        redirects.admit(listener).ok()?;
    }
    Some(listeners)
}
