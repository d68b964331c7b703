//! Messages between two agents, over a sequenced-packet Unix socket: each message arrives whole, with the
//! descriptors that were sent in it. Does not know what the agents do with them.

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
    connect, listen, recvmsg, sendmsg, socket_with, sockopt,
};
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Descriptors in one message; the kernel takes 253 (`SCM_MAX_FD` in include/net/scm.h).
pub const MAX_DESCRIPTORS: usize = 64;

/// The meaning of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Word {
    /// From the next agent, with the descriptor of its lock: it takes over.
    Here = b'h',
    /// From the leaving agent: some of its listening sockets.
    Listeners = b'l',
    /// From the leaving agent: it has sent all listening sockets.
    All = b'a',
    /// From the next agent: stop accepting.
    Stop = b's',
    /// From the leaving agent: it has stopped accepting.
    Done = b'd',
}

impl Word {
    fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Here,
            Self::Listeners,
            Self::All,
            Self::Stop,
            Self::Done,
        ];
        all.into_iter().find(|word| *word as u8 == byte)
    }
}

fn unix() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::SEQPACKET;
    Ok(socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

/// Listens at a path. Fails if something exists there.
pub fn listener(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let socket = unix()?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    // `accept` checks the credentials of a client that connects before this.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listen(&socket, 4)?;
    watched(socket)
}

fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor and returns this same one for as long as it lives.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// The next client that is root or this process's own user.
pub async fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<Channel> {
    loop {
        let mut ready = listener.readable().await?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted = ready.try_io(|socket| Ok(accept_with(socket.get_ref(), flags)?));
        let Ok(client) = accepted else {
            continue;
        };
        let client = client?;
        let uid = sockopt::socket_peercred(&client)?.uid;
        if uid.is_root() || uid == rustix::process::geteuid() {
            return Channel::new(client);
        }
        tracing::warn!(
            uid = uid.as_raw(),
            "handover client rejected: it is neither root nor the agent's user"
        );
    }
}

/// Connects and sends the first message. Does not wait, so the caller needs no runtime.
pub fn call(path: &Path, with: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let socket = unix()?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let uid = sockopt::socket_peercred(&socket)?.uid;
    if !uid.is_root() && uid != rustix::process::geteuid() {
        return Err(io::Error::other(format!(
            "the socket belongs to user {}, which is neither root nor the agent's user",
            uid.as_raw()
        )));
    }
    send(socket.as_fd(), Word::Here, &[with])?;
    Ok(socket)
}

fn send(socket: BorrowedFd<'_>, word: Word, with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !control.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(
        socket,
        &[IoSlice::new(&[word as u8])],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<(Word, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let read = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut with = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            with.extend(descriptors);
        }
    }
    if read.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let word = Word::of(byte[0]).ok_or(io::ErrorKind::InvalidData)?;
    Ok((word, with))
}

/// One end of a conversation.
#[derive(Debug)]
pub struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    /// Hands a socket to the runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self(watched(socket)?))
    }

    /// Sends a message with up to [`MAX_DESCRIPTORS`] descriptors.
    pub async fn send(&self, word: Word, with: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.0.writable().await?;
            if let Ok(sent) = ready.try_io(|socket| send(socket.as_fd(), word, with)) {
                return sent;
            }
        }
    }

    /// Receives the next message.
    ///
    /// # Errors
    /// Of kind `UnexpectedEof` if the other side has closed.
    pub async fn receive(&self) -> io::Result<(Word, Vec<OwnedFd>)> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(received) = ready.try_io(|socket| receive(socket.as_fd())) {
                return received;
            }
        }
    }
}
