//! Queries over TCP: messages with a length before each (RFC 7766), answered in the order in which answers come.

use super::asker::Asker;
use super::queue::{Queued, Room, frame};
use super::server::Server;
use super::waiting::Way;
use egress_core::dns::content::Transport;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a connection may be idle (RFC 7766 §6.2.3 asks for some seconds).
const IDLE: Duration = Duration::from_secs(10);
/// Longer queries end the connection.
const MAX_QUERY_SIZE: usize = 4096;
/// Queries and replies of a connection under way. Further queries are read when the client has taken a reply.
const REPLIES: usize = 64;

/// Serves a connection until it is idle, or its client has left.
pub async fn stream(server: Arc<Server>, stream: TcpStream, asker: Asker) {
    let Some(_place) = server.connections.take(asker.share) else {
        return;
    };
    let (mut read, mut write) = stream.into_split();
    let (replies, mut waiting) = mpsc::channel::<Queued>(REPLIES);
    let writer = async move {
        while let Some(reply) = waiting.recv().await {
            timeout(IDLE, write.write_all(reply.bytes())).await??;
        }
        // The client has sent its last query, and every reply is sent.
        write.shutdown().await
    };
    let budget = server.budgets.of(asker.share);
    let asker = Arc::new(asker);
    let reader = async move {
        let mut message = Vec::new();
        loop {
            let length = usize::from(timeout(IDLE, read.read_u16()).await??);
            if length > MAX_QUERY_SIZE {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            message.resize(length, 0);
            timeout(IDLE, read.read_exact(&mut message)).await??;
            // A client that takes no replies is not read from.
            let room = timeout(IDLE, replies.clone().reserve_owned()).await?;
            let room = Room {
                place: room.map_err(|_| io::ErrorKind::BrokenPipe)?,
                budget: budget.clone(),
            };
            let way = move || Way::Stream(room);
            let mut readable = true;
            let reply = frame(|reply| {
                readable = server.take(&message, &asker, Transport::Tcp, way, reply);
            });
            if !reply.is_empty() {
                let reply = timeout(IDLE, budget.queued(reply)).await?;
                // There is room again, because the query does not wait.
                let sent = timeout(IDLE, replies.send(reply)).await?;
                sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
            }
            if !readable {
                return Ok::<(), io::Error>(());
            }
        }
    };
    tokio::pin!(writer, reader);
    let mut reading = true;
    loop {
        tokio::select! {
            _ = &mut writer => return,
            _ = &mut reader, if reading => reading = false,
        }
    }
}
