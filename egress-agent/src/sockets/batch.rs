//! Many datagrams with one system call: receives them with their marks, and sends replies. Knows nothing of messages.

use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Datagrams of one call. More make a single one no cheaper.
const MAX_DATAGRAMS: usize = 32;
/// Longer datagrams are cut off. A query with a name of 255 bytes and an EDNS record with padding is shorter.
const MAX_DATAGRAM_SIZE: usize = 4096;
/// Room for the control message with the mark, in 8 bytes each.
const CONTROL: usize = 8;

/// Datagrams that were received together.
pub struct Inbox {
    bytes: Vec<u8>,
    from: [libc::sockaddr_storage; MAX_DATAGRAMS],
    control: [[u64; CONTROL]; MAX_DATAGRAMS],
    headers: [libc::mmsghdr; MAX_DATAGRAMS],
    /// The length, the sender and the mark of each.
    received: Vec<(Option<usize>, SocketAddr, u32)>,
}

/// A datagram that was received.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Its payload; `None` if it was longer than the buffer.
    pub payload: Option<&'a [u8]>,
    /// Its sender.
    pub from: SocketAddr,
    /// Its mark; 0 if it has none.
    pub mark: u32,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            bytes: vec![0; MAX_DATAGRAMS * MAX_DATAGRAM_SIZE],
            // SAFETY: integers only.
            from: unsafe { std::mem::zeroed() },
            control: [[0; CONTROL]; MAX_DATAGRAMS],
            // SAFETY: integers, and pointers that no call reads before they are set.
            headers: unsafe { std::mem::zeroed() },
            received: Vec::with_capacity(MAX_DATAGRAMS),
        }
    }
}

impl Inbox {
    /// Receives datagrams without waiting, in place of the last ones. Returns whether there may be more.
    pub fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<bool> {
        self.received.clear();
        // SAFETY: integers and pointers, which are set below.
        let mut parts: [libc::iovec; MAX_DATAGRAMS] = unsafe { std::mem::zeroed() };
        for (at, bytes) in self.bytes.chunks_exact_mut(MAX_DATAGRAM_SIZE).enumerate() {
            parts[at] = libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: MAX_DATAGRAM_SIZE,
            };
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = (&raw mut self.from[at]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut parts[at];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.control[at]).cast();
            header.msg_controllen = size_of::<[u64; CONTROL]>();
        }
        // SAFETY: the pointers are to values of this function and of `self`, with their lengths.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                MAX_DATAGRAMS as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (header, from) in self.headers[..count].iter().zip(&self.from) {
            let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            let length = whole.then_some(header.msg_len as usize);
            let from = address(from).ok_or(io::ErrorKind::InvalidData)?;
            self.received.push((length, from, mark_of(&header.msg_hdr)));
        }
        Ok(count == MAX_DATAGRAMS)
    }

    /// The datagrams of the last call.
    pub fn received(&self) -> impl Iterator<Item = Received<'_>> {
        let bytes = self.bytes.chunks_exact(MAX_DATAGRAM_SIZE);
        let each = self.received.iter().zip(bytes);
        each.map(|(&(length, from, mark), bytes)| Received {
            payload: length.and_then(|length| bytes.get(..length)),
            from,
            mark,
        })
    }
}

/// Datagrams to be sent together.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    to: Vec<Outgoing>,
}

/// A datagram's destination, which that of a connected socket needs not, and its bytes.
type Outgoing = (Option<SocketAddr>, Range<usize>);

impl Outbox {
    /// Adds a datagram that `write` appends to a buffer. One without bytes is not sent.
    pub fn add(&mut self, to: Option<SocketAddr>, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.bytes.len();
        write(&mut self.bytes);
        let end = self.bytes.len();
        if end > begin {
            self.to.push((to, begin..end));
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.to.is_empty()
    }

    /// Sends all of them without waiting. Calls `failed` for one that cannot be sent, with its place. If the socket has no
    /// room, the rest is dropped, as the network may do.
    pub fn send(&mut self, socket: &impl AsRawFd, mut failed: impl FnMut(usize, io::Error)) {
        for (n, some) in self.to.chunks(MAX_DATAGRAMS).enumerate() {
            send(socket, &self.bytes, some, |at, error| {
                failed(n * MAX_DATAGRAMS + at, error);
            });
        }
        self.to.clear();
        self.bytes.clear();
    }
}

fn send(
    socket: &impl AsRawFd,
    bytes: &[u8],
    datagrams: &[Outgoing],
    mut failed: impl FnMut(usize, io::Error),
) {
    // SAFETY: integers and pointers, which are set below.
    let (mut names, mut parts, mut headers): (
        [libc::sockaddr_storage; MAX_DATAGRAMS],
        [libc::iovec; MAX_DATAGRAMS],
        [libc::mmsghdr; MAX_DATAGRAMS],
    ) = unsafe { std::mem::zeroed() };
    for (at, (to, range)) in datagrams.iter().enumerate() {
        let payload = &bytes[range.clone()];
        parts[at] = libc::iovec {
            iov_base: payload.as_ptr().cast_mut().cast(),
            iov_len: payload.len(),
        };
        let header = &mut headers[at].msg_hdr;
        if let Some(to) = to {
            header.msg_name = (&raw mut names[at]).cast();
            header.msg_namelen = put(*to, &mut names[at]);
        }
        header.msg_iov = &raw mut parts[at];
        header.msg_iovlen = 1;
    }
    let (mut at, mut again) = (0, true);
    while at < datagrams.len() {
        // SAFETY: the pointers are to values of this function and its caller, with their lengths. The call writes the
        // sent lengths into the headers, and nothing into what they point to.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers[at..].as_mut_ptr(),
                (datagrams.len() - at) as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        if let Ok(sent) = usize::try_from(sent) {
            (at, again) = (at + sent.max(1), true);
            continue;
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock => return,
            // The first error may be an ICMP error for an earlier datagram.
            _ if again => again = false,
            _ => {
                failed(at, error);
                (at, again) = (at + 1, true);
            }
        }
    }
}

/// Writes an address. Returns its length.
fn put(address: SocketAddr, into: &mut libc::sockaddr_storage) -> libc::socklen_t {
    let length = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: `sockaddr_storage` has room for every type of address, with its alignment.
            let into = unsafe { &mut *(&raw mut *into).cast::<libc::sockaddr_in>() };
            into.sin_family = libc::AF_INET as libc::sa_family_t;
            into.sin_port = v4.port().to_be();
            into.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let into = unsafe { &mut *(&raw mut *into).cast::<libc::sockaddr_in6>() };
            into.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            into.sin6_port = v6.port().to_be();
            into.sin6_addr.s6_addr = v6.ip().octets();
            into.sin6_scope_id = v6.scope_id();
            size_of::<libc::sockaddr_in6>()
        }
    };
    length as libc::socklen_t
}

/// The mark among the control messages.
fn mark_of(message: &libc::msghdr) -> u32 {
    // SAFETY: the kernel filled the control messages, and the macros stay inside their length.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(message);
        while let Some(header) = next.as_ref() {
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SO_MARK) {
                return libc::CMSG_DATA(next).cast::<u32>().read_unaligned();
            }
            next = libc::CMSG_NXTHDR(message, next);
        }
    }
    0
}

fn address(from: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(from.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is this type, which is shorter.
            let v4 = unsafe { &*(&raw const *from).cast::<libc::sockaddr_in>() };
            let ip = v4.sin_addr.s_addr.to_ne_bytes();
            Some((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*(&raw const *from).cast::<libc::sockaddr_in6>() };
            let (ip, port) = (v6.sin6_addr.s6_addr, u16::from_be(v6.sin6_port));
            Some(SocketAddrV6::new(ip.into(), port, 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Inbox, MAX_DATAGRAM_SIZE, MAX_DATAGRAMS, Outbox, address, put};
    use std::io;
    use std::net::{SocketAddr, UdpSocket};

    fn pair(at: &str) -> (UdpSocket, UdpSocket) {
        let (one, other) = (UdpSocket::bind(at).unwrap(), UdpSocket::bind(at).unwrap());
        one.set_nonblocking(true).unwrap();
        (one, other)
    }

    #[test]
    fn datagrams_arrive_whole_in_order_and_from_their_senders() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (one, other) = pair(at);
            let (mut outbox, mut inbox) = (Outbox::default(), Inbox::default());
            let to = one.local_addr().unwrap();
            let many = MAX_DATAGRAMS + 5;
            for n in 0..many {
                outbox.add(Some(to), |bytes| bytes.resize(bytes.len() + 1 + n, n as u8));
            }
            outbox.add(Some(to), |_| {});
            outbox.send(&other, |at, error| panic!("{at}: {error}"));
            let mut seen = Vec::new();
            loop {
                let more = inbox.receive(&one).unwrap();
                seen.extend(inbox.received().map(|datagram| {
                    let from = datagram.from;
                    (from, datagram.payload.unwrap().to_vec(), datagram.mark)
                }));
                if !more {
                    break;
                }
            }
            let from: SocketAddr = other.local_addr().unwrap();
            let sent: Vec<_> = (0..many).map(|n| (from, vec![n as u8; n + 1], 0)).collect();
            assert_eq!(seen, sent);
            let empty = inbox.receive(&one).unwrap_err();
            assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(inbox.received().count(), 0);
        }
    }

    #[test]
    fn an_address_of_the_kernel_is_the_one_that_was_given_to_it() {
        for text in ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%3]:53"] {
            let given: SocketAddr = text.parse().unwrap();
            // SAFETY: integers only.
            let mut kernels = unsafe { std::mem::zeroed() };
            put(given, &mut kernels);
            assert_eq!(address(&kernels), Some(given));
        }
    }

    #[test]
    fn a_datagram_that_is_too_long_has_no_payload_and_one_that_cannot_be_sent_stops_no_other() {
        let (one, other) = pair("127.0.0.1:0");
        let (mut outbox, mut inbox) = (Outbox::default(), Inbox::default());
        let to = one.local_addr().unwrap();
        outbox.add(Some(to), |bytes| bytes.resize(MAX_DATAGRAM_SIZE + 1, 1));
        outbox.add("[::1]:9".parse().ok(), |bytes| bytes.push(2));
        outbox.add(Some(to), |bytes| bytes.push(3));
        let mut failed = Vec::new();
        outbox.send(&other, |at, _| failed.push(at));
        assert_eq!(failed, [1]);
        inbox.receive(&one).unwrap();
        let seen: Vec<_> = inbox.received().map(|datagram| datagram.payload).collect();
        assert_eq!(seen, [None, Some(&[3][..])]);
    }
}
