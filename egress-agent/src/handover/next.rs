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

/// How long the leaving agent may take for its answers.
const PATIENCE: Duration = Duration::from_secs(5);

/// A leaving agent that was told of this one.
#[derive(Debug)]
pub struct Predecessor(OwnedFd);

/// The same, with its listening sockets taken over.
#[derive(Debug)]
pub struct StillServing(Channel);

impl Predecessor {
    /// Tells the leaving agent, where there is one, that this process took the lock. Does not wait.
    pub fn meet(admin_socket: &Path, lock: &Lock) -> Option<Self> {
        let path = socket_beside(admin_socket);
        match call(&path, lock.folder()) {
            Ok(socket) => Some(Self(socket)),
            // Nobody is leaving.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                None
            }
            Err(error) => {
                tracing::warn!(
                    socket = %path.display(), %error,
                    "the leaving agent was not asked to hand over"
                );
                None
            }
        }
    }

    /// Its listening sockets, on which it goes on accepting; none if it has ended.
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
        let result = timeout(PATIENCE, received).await;
        match result.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
            Ok(received) => Some(received),
            Err(error) => {
                tracing::warn!(%error, "the leaving agent handed nothing over");
                None
            }
        }
    }
}

impl StillServing {
    /// Returns when the other agent accepts no more: from there on the tables are this agent's to
    /// change.
    ///
    /// # Errors
    /// It does neither answer nor end: exit code [`BUSY`].
    pub async fn stop(self) -> Result<(), Failure> {
        let asked = async {
            self.0.send(Word::Stop, &[]).await?;
            loop {
                if let (Word::Done, _) = self.0.receive().await? {
                    return Ok::<_, io::Error>(());
                }
            }
        };
        match timeout(PATIENCE, asked).await {
            // One that has ended accepts nothing either.
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
