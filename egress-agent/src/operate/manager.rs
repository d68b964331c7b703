//! The service manager (systemd), if there is one: notifications to it (`sd_notify(3)`), and the listening
//! sockets that it keeps for the next agent (`FileDescriptorStoreMax=` of systemd.service(5)).
//!
//! A socket that it keeps goes on listening while no agent runs, so redirected flows wait in its queue.

use egress_ebpf::ids::NetnsCookie;
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};
use std::env;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

/// The first descriptor that is passed (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;
/// The most descriptors that are taken.
const MAX_DESCRIPTORS: i32 = 4096;
/// Descriptors in one message: the listeners of one namespace.
const IN_ONE: usize = 2;

/// Reports that the gate is closed and the rules are in force.
pub fn notify_ready() {
    notify("READY=1", &[]);
}

/// Asks the manager to keep the listeners of a namespace, instead of those that it has kept for it.
pub fn keep(netns: NetnsCookie, listeners: &[BorrowedFd<'_>]) {
    forget(netns);
    let message = format!("FDSTORE=1\nFDNAME={}", name(netns));
    for some in listeners.chunks(IN_ONE) {
        notify(&message, some);
    }
}

/// Asks the manager to close its copies of the listeners of a namespace.
pub fn forget(netns: NetnsCookie) {
    notify(&format!("FDSTOREREMOVE=1\nFDNAME={}", name(netns)), &[]);
}

fn name(netns: NetnsCookie) -> String {
    format!("proxy-{}", netns.0)
}

/// Takes the sockets that the manager kept from the previous agent (sd_listen_fds(3)). Call it once,
/// before the process opens anything else.
pub fn kept() -> Vec<OwnedFd> {
    let number = |name| {
        env::var(name)
            .ok()
            .and_then(|text| text.parse::<i32>().ok())
    };
    let own = i32::try_from(std::process::id()).ok();
    let (pid, count) = (number("LISTEN_PID"), number("LISTEN_FDS"));
    let Some(count) = count.filter(|count| pid == own && (1..=MAX_DESCRIPTORS).contains(count))
    else {
        return Vec::new();
    };
    let take = |raw: i32| {
        // SAFETY: the manager opened these numbers for this process, and nothing else owns them. A
        // number that is not open is not taken.
        let socket = unsafe {
            fcntl_getfd(BorrowedFd::borrow_raw(raw)).ok()?;
            OwnedFd::from_raw_fd(raw)
        };
        fcntl_setfd(&socket, FdFlags::CLOEXEC).ok()?;
        Some(socket)
    };
    (FIRST..FIRST + count).filter_map(take).collect()
}

fn notify(message: &str, with: &[BorrowedFd<'_>]) {
    if let Err(error) = send(message, with) {
        tracing::warn!(%error, "cannot notify the service manager (NOTIFY_SOCKET)");
    }
}

fn send(message: &str, with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let bytes = socket.as_bytes();
    // A leading @ stands for the abstract namespace.
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(bytes)?,
    };
    let kind = SocketType::DGRAM;
    let from = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IN_ONE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !control.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parts = [IoSlice::new(message.as_bytes())];
    sendmsg_addr(&from, &address, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
