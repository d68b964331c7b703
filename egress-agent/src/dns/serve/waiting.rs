//! How a reply reaches its client, and a query that waits for one.

use super::asker::Asker;
use super::shares::Place;
use egress_core::dns::content::{Content, Transport};
use egress_core::dns::query::Client;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// How a reply reaches its client.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// In a datagram from the socket that the query came to.
    Datagram(Arc<UdpSocket>),
    /// To the task that writes the client's stream.
    Stream(mpsc::Sender<Vec<u8>>),
}

/// A query that waits for an answer.
pub(super) struct Waiting {
    pub(super) client: Client,
    pub(super) asker: Arc<Asker>,
    pub(super) way: Way,
    /// Its place among the workload's queries.
    pub(super) _place: Place,
}

impl Waiting {
    pub(super) fn reply(&self, content: &Content) {
        let message = content.reply(&self.client, self.way.transport(), Duration::ZERO);
        self.way.send(&self.asker, message);
    }
}

impl Way {
    /// The form of replies.
    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::Datagram(_) => Transport::Udp,
            Self::Stream(_) => Transport::Tcp,
        }
    }

    /// Sends a reply without waiting. A client that takes none asks again.
    pub(super) fn send(&self, asker: &Asker, message: Vec<u8>) {
        match self {
            Self::Datagram(socket) => drop(socket.try_send_to(&message, asker.peer)),
            Self::Stream(writer) => drop(writer.try_send(message)),
        }
    }
}
