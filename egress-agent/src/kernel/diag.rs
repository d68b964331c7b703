//! Lists the kernel's TCP sockets (`sock_diag(7)`), each with its value in a BPF map, and ends a socket.
//! Does not know what the value means.
//!
//! Message layouts: include/uapi/linux/inet_diag.h and sock_diag.h.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `INET_DIAG_REQ_SK_BPF_STORAGES`; since Linux 5.7.
const REQ_STORAGES: u16 = 2;
/// `SK_DIAG_BPF_STORAGE_REQ_MAP_FD`.
const REQ_MAP_FD: u16 = 1;
/// `INET_DIAG_SK_BPF_STORAGES`.
const STORAGES: u16 = 20;
/// `SK_DIAG_BPF_STORAGE`.
const STORAGE: u16 = 1;
/// `SK_DIAG_BPF_STORAGE_MAP_VALUE`.
const MAP_VALUE: u16 = 3;
/// Bits of an attribute's type (`NLA_TYPE_MASK`); the others are flags.
const TYPE: u16 = 0x3fff;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct inet_diag_sockid`.
const ID: usize = 48;
/// Offset of the id in `struct inet_diag_msg`, and the length of that structure.
const MSG_ID: usize = 4;
const MSG: usize = 72;
/// States of a connection with two ends (include/net/tcp_states.h): ESTABLISHED, SYN_SENT,
/// FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING.
const LIVE: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// Larger than `NLMSG_GOODSIZE`, so that no message of a dump is truncated.
const BUFFER: usize = 64 * 1024;

/// The kernel's name of a socket: family, addresses and ports, interface and cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketId {
    family: u8,
    id: [u8; ID],
}

/// A netlink socket that lists sockets.
#[derive(Debug)]
pub struct Diag(OwnedFd);

impl Diag {
    /// Uses a netlink socket of `NETLINK_SOCK_DIAG`. It lists the network namespace in which it was
    /// created.
    pub fn over(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Every TCP connection of both families on which `map` (an sk_storage) has a value.
    pub fn connections(&self, map: BorrowedFd<'_>) -> io::Result<Vec<(SocketId, Vec<u8>)>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut body = request(family, LIVE, &[0; ID]);
            let fd = map.as_raw_fd().to_ne_bytes();
            attribute(&mut body, REQ_STORAGES, &{
                let mut nested = Vec::new();
                attribute(&mut nested, REQ_MAP_FD, &fd);
                nested
            });
            self.send(SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP as u16, &body)?;
            self.dump(&mut found)?;
        }
        Ok(found)
    }

    /// Ends a connection: its owner gets `ECONNABORTED`, and its peer a reset if the gate lets it out.
    /// `Ok(false)` if the connection has already ended.
    pub fn destroy(&self, socket: &SocketId) -> io::Result<bool> {
        let body = request(socket.family, LIVE, &socket.id);
        self.send(SOCK_DESTROY, libc::NLM_F_ACK as u16, &body)?;
        let mut buffer = vec![0; BUFFER];
        let n = self.receive(&mut buffer)?;
        for (kind, body) in messages(&buffer[..n]) {
            if kind == libc::NLMSG_ERROR as u16 {
                return match error_of(body) {
                    0 => Ok(true),
                    libc::ENOENT => Ok(false),
                    code => Err(io::Error::from_raw_os_error(code)),
                };
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((libc::NLM_F_REQUEST as u16 | flags).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        // SAFETY: the buffer has the length given; an unconnected netlink socket sends to the kernel.
        let sent = unsafe {
            libc::send(
                self.0.as_raw_fd(),
                message.as_ptr().cast(),
                message.len(),
                0,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the buffer has the length given.
        let n = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_TRUNC,
            )
        };
        match usize::try_from(n) {
            Ok(n) if n <= buffer.len() => Ok(n),
            Ok(_) => Err(io::Error::other("a message of sock_diag was truncated")),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    fn dump(&self, found: &mut Vec<(SocketId, Vec<u8>)>) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = self.receive(&mut buffer)?;
            for (kind, body) in messages(&buffer[..n]) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        return Err(io::Error::from_raw_os_error(error_of(body)));
                    }
                    _ => found.extend(connection(body)),
                }
            }
        }
    }
}

/// `struct inet_diag_req_v2` for TCP.
fn request(family: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut body = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}

fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(((4 + value.len()) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// The messages of a datagram by type; a truncated message ends the list.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes of a message by type.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & TYPE;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn nested(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// The socket of one message, if the map has a value on it.
fn connection(message: &[u8]) -> Option<(SocketId, Vec<u8>)> {
    let family = *message.first()?;
    let id = message.get(MSG_ID..MSG_ID + ID)?.try_into().ok()?;
    let storage = nested(nested(message.get(MSG..)?, STORAGES)?, STORAGE)?;
    Some((
        SocketId { family, id },
        nested(storage, MAP_VALUE)?.to_vec(),
    ))
}

/// The errno of `struct nlmsgerr`, positive.
fn error_of(body: &[u8]) -> i32 {
    body.get(..4)
        .and_then(|b| b.try_into().ok())
        .map_or(libc::EBADMSG, |b| -i32::from_ne_bytes(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn socket(value: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![7; MSG];
        body[0] = AF_INET;
        let mut storage = Vec::new();
        attribute(&mut storage, 2, &9_u32.to_ne_bytes());
        if let Some(value) = value {
            attribute(&mut storage, MAP_VALUE, value);
        }
        let mut storages = Vec::new();
        attribute(&mut storages, STORAGE, &storage);
        attribute(&mut body, 15, &[1, 2, 3]);
        attribute(&mut body, STORAGES | 0x8000, &storages);
        body
    }

    #[test]
    fn a_socket_is_found_by_the_value_that_the_map_has_on_it() {
        let (id, value) = connection(&socket(Some(b"state"))).unwrap();
        assert_eq!((id.family, id.id), (AF_INET, [7; ID]));
        assert_eq!(value, b"state");
        assert_eq!(connection(&socket(None)), None);
    }

    #[test]
    fn bytes_that_are_cut_anywhere_are_no_socket_and_no_panic() {
        let whole = socket(Some(b"state"));
        for end in 0..whole.len() {
            assert_eq!(connection(&whole[..end]), None, "{end}");
        }
        let two = [message(20, &whole), message(3, &[])].concat();
        assert_eq!(
            messages(&two).map(|(kind, _)| kind).collect::<Vec<_>>(),
            [20, 3]
        );
        for end in 0..two.len() {
            assert!(messages(&two[..end]).count() < 2, "{end}");
        }
        assert_eq!(messages(&[0; 64]).count(), 0, "a length of zero ends it");
    }
}
