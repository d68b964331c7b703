//! The two sides of a relayed connection: the client's stream and the destination's.
//!
//! It says when a side's bytes may move without being seen.

use crate::proxy::stream::Rewound;
use crate::proxy::upstream::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// See the module.
pub(super) trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The socket, if all that comes next is in it and nothing has to see or to change it. Once it is returned, it is
    /// returned until the connection ends.
    fn bare(&self) -> Option<&TcpStream>;

    /// Counts bytes that were moved from the socket.
    fn count_received(&self, _bytes: usize) {}

    /// Counts bytes that were moved to the socket.
    fn count_sent(&self, _bytes: usize) {}
}

impl Side for Rewound {
    fn bare(&self) -> Option<&TcpStream> {
        self.bare()
    }

    fn count_received(&self, bytes: usize) {
        self.count_received(bytes);
    }

    fn count_sent(&self, bytes: usize) {
        self.count_sent(bytes);
    }
}

impl Side for Stream {
    fn bare(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) | Self::Tunnel(_) => None,
        }
    }
}
