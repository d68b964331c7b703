//! The thread that creates sockets in other network namespaces.
//!
//! A socket belongs to the namespace that its thread is in when the thread creates the socket. One thread,
//! which runs nothing else, enters the namespace, creates the socket, and leaves. If it panics or cannot
//! return, it ends, so no other code runs in the wrong namespace. The next request starts a new thread.

use super::datagrams;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, listen, netlink, socket_with, sockopt,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// The kind of socket to create.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// A TCP socket for this address's family.
    Stream(IpAddr),
    /// A TCP socket that listens on this address.
    Listener(SocketAddr),
    /// A UDP socket that is bound to this address.
    Datagram(SocketAddr),
    /// A UDP socket of the DNS server, on this loopback address.
    DnsServer(SocketAddr),
    /// A netlink socket that lists the sockets of the namespace (`sock_diag(7)`).
    Diag,
}

struct Request {
    inside: Arc<OwnedFd>,
    wanted: Wanted,
    reply: oneshot::Sender<io::Result<OwnedFd>>,
}

/// Sends requests to the thread.
#[derive(Debug, Default)]
pub(super) struct Maker {
    requests: Mutex<Option<Sender<Request>>>,
}

impl Maker {
    /// Creates a socket in the namespace that `inside` is a descriptor of. The socket is closed on exec, and
    /// non-blocking except for netlink.
    pub(super) async fn make(&self, inside: Arc<OwnedFd>, wanted: Wanted) -> io::Result<OwnedFd> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Request {
            inside,
            wanted,
            reply,
        })?;
        answer
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread that makes sockets ended")))
    }

    fn hand_over(&self, mut request: Request) -> io::Result<()> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = &*requests {
            match thread.send(request) {
                Ok(()) => return Ok(()),
                Err(unsent) => request = unsent.0,
            }
        }
        let thread = start()?;
        let sent = thread.send(request);
        *requests = Some(thread);
        sent.map_err(|_| io::Error::other("the thread that makes sockets ended"))
    }
}

/// Starts a thread, which ends when its sender is dropped.
fn start() -> io::Result<Sender<Request>> {
    let home = File::open("/proc/thread-self/ns/net")?;
    let (sender, requests) = channel();
    std::thread::Builder::new()
        .name("netns-sockets".to_owned())
        .spawn(move || work(&home.into(), &requests))?;
    Ok(sender)
}

fn work(home: &OwnedFd, requests: &Receiver<Request>) {
    for Request {
        inside,
        wanted,
        reply,
    } in requests
    {
        let made = enter(&inside).and_then(|()| make(wanted));
        drop(inside);
        // The thread leaves before it answers: inside, it would keep the namespace alive.
        let left = enter(home);
        // If nobody waits for the answer any more, this closes the socket.
        let _ = reply.send(made);
        if left.is_err() {
            return;
        }
    }
}

fn enter(namespace: &OwnedFd) -> io::Result<()> {
    Ok(move_into_link_name_space(
        namespace.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}

pub(super) fn make(wanted: Wanted) -> io::Result<OwnedFd> {
    let (ip, kind) = match wanted {
        Wanted::Stream(ip) => (ip, SocketType::STREAM),
        Wanted::Listener(local) => (local.ip(), SocketType::STREAM),
        Wanted::Datagram(local) | Wanted::DnsServer(local) => (local.ip(), SocketType::DGRAM),
        Wanted::Diag => {
            let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
            let protocol = Some(netlink::SOCK_DIAG);
            return Ok(socket_with(AddressFamily::NETLINK, kind, flags, protocol)?);
        }
    };
    let family = match ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, None)?;
    if let Wanted::Datagram(local) = wanted {
        bind(&socket, &local)?;
    }
    if let Wanted::DnsServer(local) = wanted {
        datagrams::prepare(&socket)?;
        if local.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        free_bind(&socket, ip)?;
        bind(&socket, &local)?;
    }
    if let Wanted::Listener(local) = wanted {
        // A restarted agent gets its port although old connections are in TIME_WAIT. The kernel still
        // rejects a second listener on the port.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if local.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        // A pod's loopback may come up a moment after its namespace.
        free_bind(&socket, ip)?;
        bind(&socket, &local)?;
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// Lets a socket be bound to an address that the namespace does not have yet.
fn free_bind(socket: &OwnedFd, ip: IpAddr) -> io::Result<()> {
    let (level, option) = match ip {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_FREEBIND),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
    };
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open as long as it is borrowed. The call reads the four bytes of `on`,
    // which outlives it.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::netns_of;
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    use std::net::Ipv4Addr;

    /// A namespace whose loopback is down.
    fn namespace() -> Arc<OwnedFd> {
        let made = std::thread::spawn(|| {
            // SAFETY: a network namespace touches nothing that threads share
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .expect("needs root: makes a network namespace");
            OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
        });
        Arc::new(made.join().unwrap())
    }

    #[tokio::test]
    async fn a_socket_is_made_inside_and_the_thread_is_back_before_the_answer() {
        let maker = Maker::default();
        let (inside, other) = (namespace(), namespace());
        let wanted = Wanted::Listener((Ipv4Addr::LOCALHOST, 15001).into());
        let a = maker.make(Arc::clone(&inside), wanted).await.unwrap();
        let b = maker.make(Arc::clone(&other), wanted).await.unwrap();
        let again = maker.make(Arc::clone(&inside), wanted).await.unwrap_err();
        let own = make(Wanted::Stream(Ipv4Addr::LOCALHOST.into())).unwrap();
        let ids = [&a, &b, &own].map(|s| netns_of(s).unwrap());
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
        for task in std::fs::read_dir("/proc/self/task").unwrap() {
            let task = task.unwrap().path();
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            if name.trim() == "netns-sockets" {
                assert_eq!(std::fs::read_link(task.join("ns/net")).unwrap(), ours);
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_namespace_fails_and_the_thread_goes_on() {
        let maker = Maker::default();
        let wrong = Arc::new(OwnedFd::from(File::open("/dev/null").unwrap()));
        let wanted = Wanted::Stream(Ipv4Addr::LOCALHOST.into());
        assert!(maker.make(wrong, wanted).await.is_err());
        maker.make(namespace(), wanted).await.unwrap();
    }
}
