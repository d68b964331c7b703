//! The next agent's side: asks the leaving agent for its listening sockets, and to stop accepting.

use super::channel::{Channel, Word, call};
use super::socket_beside;
use crate::failure::{BUSY, Failure};
use crate::gate::lock::Lock;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// How long to wait for an answer of the leaving agent.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A leaving agent that knows that this one takes over.
#[derive(Debug)]
pub struct Predecessor(OwnedFd);

/// A leaving agent that has handed its listening sockets over and still serves on them.
#[derive(Debug)]
pub struct StillServing(Channel);

impl Predecessor {
    /// Connects to the leaving agent, if there is one, and shows it that this process has the lock. Does
    /// not wait.
    pub fn meet(admin_socket: &Path, lock: &Lock) -> Option<Self> {
        let path = socket_beside(admin_socket);
        match call(&path, lock.folder()) {
            Ok(socket) => Some(Self(socket)),
            // No agent is leaving.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                None
            }
            Err(error) => {
                tracing::warn!(
                    socket = %path.display(), %error,
                    "cannot ask the leaving agent to hand over its listeners"
                );
                None
            }
        }
    }

    /// Receives its listening sockets, on which it goes on accepting. `None` if it has ended or does not
    /// answer.
    pub async fn listeners(self) -> Option<(StillServing, Vec<OwnedFd>)> {
        let received = async {
            let channel = Channel::new(self.0)?;
            let mut all = Vec::new();
            loop {
                match channel.receive().await? {
                    (Word::Listeners, some) => all.extend(some),
                    (Word::All, _) => return Ok((StillServing(channel), all)),
                    (Word::Here | Word::Stop | Word::Done, _) => {
                        return Err(io::Error::from(ErrorKind::InvalidData));
                    }
                }
            }
        };
        let result = timeout(TIMEOUT, received).await;
        match result.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
            Ok(received) => Some(received),
            Err(error) => {
                tracing::warn!(%error, "the leaving agent did not hand over its listeners");
                None
            }
        }
    }
}

impl StillServing {
    /// Asks the other agent to stop accepting, and returns when it has. From then on this agent may
    /// change the tables.
    ///
    /// # Errors
    /// The other agent neither answers nor ends: exit code [`BUSY`].
    pub async fn stop(self) -> Result<(), Failure> {
        let asked = async {
            self.0.send(Word::Stop, &[]).await?;
            loop {
                if let (Word::Done, _) = self.0.receive().await? {
                    return Ok::<_, io::Error>(());
                }
            }
        };
        match timeout(TIMEOUT, asked).await {
            // An error means that the other agent has ended, so it does not accept either.
            Ok(_) => Ok(()),
            Err(_) => Err(Failure {
                code: BUSY,
                message:
                    "the leaving agent does not answer and may still accept connections: end it"
                        .to_owned(),
            }),
        }
    }
}
