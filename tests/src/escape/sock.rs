//! Sockets of any family by plain system calls, for probes. An error names the denied call and its errno.
//!
//! Owns the calls. The files beside this one have the probes.

use super::raw::{Message, Raw};
use libc::{c_int, c_void, socklen_t};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

/// The call at which a probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The system call, or its option.
    pub call: String,
    /// Its errno.
    pub errno: i32,
}

/// The result of a probe's step.
pub type Step<T = ()> = Result<T, Stop>;

/// How long a call of a probe may block. It ends calls whose packets the kernel drops silently.
const PATIENCE: Duration = Duration::from_millis(200);

/// The result of a system call, with its name if it failed.
pub fn check(call: &str, result: libc::c_long) -> Step<c_int> {
    if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error();
        return Err(Stop {
            call: call.to_owned(),
            errno: errno.unwrap_or_default(),
        });
    }
    Ok(c_int::try_from(result).unwrap_or_default())
}

/// A socket of a probe.
#[derive(Debug)]
pub struct Sock(OwnedFd);

impl Sock {
    /// `socket()`, with timeouts for blocking calls.
    pub fn open(domain: c_int, kind: c_int, protocol: c_int) -> Step<Self> {
        // SAFETY: no memory is passed
        let fd = check("socket", unsafe {
            libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol).into()
        })?;
        // SAFETY: the kernel just made it for this process
        let sock = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let patience = libc::timeval {
            tv_sec: 0,
            tv_usec: PATIENCE.as_micros().try_into().unwrap_or(0),
        };
        // Families without these options do not block.
        let _ = sock.set(libc::SOL_SOCKET, libc::SO_SNDTIMEO, &patience);
        let _ = sock.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience);
        // A connection ends with its probe, because a later retransmission would count for another probe.
        let end_at_once = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        let _ = sock.set(libc::SOL_SOCKET, libc::SO_LINGER, &end_at_once);
        Ok(sock)
    }

    /// A socket of the family of `address`.
    pub fn of(address: IpAddr, kind: c_int, protocol: c_int) -> Step<Self> {
        Self::open(domain(address), kind, protocol)
    }

    /// A socket that another call made.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Its number.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// `setsockopt()` with a plain value.
    pub fn set<T: Copy>(&self, level: c_int, name: c_int, value: &T) -> Step {
        let length = mem::size_of::<T>() as socklen_t;
        // SAFETY: the value is read for its own length
        let result = unsafe {
            libc::setsockopt(
                self.fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                length,
            )
        };
        check(&format!("setsockopt({level},{name})"), result.into()).map(drop)
    }

    /// `setsockopt()` with 1.
    pub fn turn_on(&self, level: c_int, name: c_int) -> Step {
        self.set::<c_int>(level, name, &1)
    }

    /// `setsockopt()` with bytes.
    pub fn set_bytes(&self, level: c_int, name: c_int, value: &[u8]) -> Step {
        let length = value.len() as socklen_t;
        // SAFETY: the value is read for its own length
        let result =
            unsafe { libc::setsockopt(self.fd(), level, name, value.as_ptr().cast(), length) };
        check(&format!("setsockopt({level},{name})"), result.into()).map(drop)
    }

    /// `bind()`.
    pub fn bind(&self, address: SocketAddr) -> Step {
        self.bind_raw(&Raw::new(address))
    }

    /// `bind()` to an address of any family.
    pub fn bind_raw(&self, raw: &Raw) -> Step {
        // SAFETY: the address is read for the length given
        let result = unsafe { libc::bind(self.fd(), raw.pointer(), raw.length()) };
        check("bind", result.into()).map(drop)
    }

    /// `listen()`.
    pub fn listen(&self) -> Step {
        // SAFETY: no memory is passed
        check("listen", unsafe { libc::listen(self.fd(), 8) }.into()).map(drop)
    }

    /// `connect()`.
    pub fn connect(&self, address: SocketAddr) -> Step {
        self.connect_raw(&Raw::new(address))
    }

    /// `connect()` to an address of any family.
    pub fn connect_raw(&self, raw: &Raw) -> Step {
        // SAFETY: the address is read for the length given
        let result = unsafe { libc::connect(self.fd(), raw.pointer(), raw.length()) };
        check("connect", result.into()).map(drop)
    }

    /// `connect()` to `AF_UNSPEC`: undoes an association.
    pub fn disconnect(&self) -> Step {
        self.connect_raw(&Raw::unspecified())
    }

    /// `send()`.
    pub fn send(&self, bytes: &[u8]) -> Step {
        // SAFETY: the bytes are read for their own length
        let result = unsafe {
            libc::send(
                self.fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_NOSIGNAL,
            )
        };
        check("send", result as libc::c_long).map(drop)
    }

    /// `sendto()`.
    pub fn send_to(&self, bytes: &[u8], address: SocketAddr, flags: c_int) -> Step {
        self.send_to_raw(bytes, &Raw::new(address), flags)
    }

    /// `sendto()` an address of any family.
    pub fn send_to_raw(&self, bytes: &[u8], raw: &Raw, flags: c_int) -> Step {
        // SAFETY: bytes and address are read for their lengths
        let result = unsafe {
            libc::sendto(
                self.fd(),
                bytes.as_ptr().cast::<c_void>(),
                bytes.len(),
                flags | libc::MSG_NOSIGNAL,
                raw.pointer(),
                raw.length(),
            )
        };
        check("sendto", result as libc::c_long).map(drop)
    }

    /// `sendmsg()` with an address and one control message of `level`, `kind` and `data`.
    pub fn send_msg(
        &self,
        bytes: &[u8],
        address: SocketAddr,
        control: Option<(c_int, c_int, &[u8])>,
    ) -> Step {
        let raw = Raw::new(address);
        let mut message = Message::new(bytes, &raw, control);
        let header = message.header();
        // SAFETY: the header points into `message`, `bytes` and `raw`, which outlive the call
        let result = unsafe { libc::sendmsg(self.fd(), &raw const header, libc::MSG_NOSIGNAL) };
        check("sendmsg", result as libc::c_long).map(drop)
    }

    /// `sendmmsg()` of one datagram to each address. Returns the number of sent ones.
    pub fn send_many(&self, bytes: &[u8], addresses: &[SocketAddr]) -> Step<c_int> {
        let raws: Vec<Raw> = addresses.iter().map(|a| Raw::new(*a)).collect();
        let mut messages: Vec<Message> =
            raws.iter().map(|r| Message::new(bytes, r, None)).collect();
        let mut headers: Vec<libc::mmsghdr> = messages
            .iter_mut()
            .map(|m| libc::mmsghdr {
                msg_hdr: m.header(),
                msg_len: 0,
            })
            .collect();
        // SAFETY: the headers point into what outlives the call, and there are as many as said
        let result = unsafe {
            libc::sendmmsg(
                self.fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                0,
            )
        };
        check("sendmmsg", result.into())
    }

    /// `recv()`, of at least one byte.
    pub fn receive(&self) -> Step {
        let mut buffer = [0_u8; 2048];
        // SAFETY: the buffer is written within its length
        let result = unsafe { libc::recv(self.fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match check("recv", result as libc::c_long)? {
            0 => Err(Stop {
                call: "recv".to_owned(),
                errno: libc::ECONNRESET,
            }),
            _ => Ok(()),
        }
    }

    /// `recvfrom()`, for the sender of a datagram.
    pub fn sender(&self, flags: c_int) -> Step<SocketAddr> {
        let mut buffer = [0_u8; 2048];
        let mut raw = Raw::room();
        let (address, length) = raw.out();
        // SAFETY: buffer and address are written within the lengths given
        let result = unsafe {
            libc::recvfrom(
                self.fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                flags,
                address,
                length,
            )
        };
        check("recvfrom", result as libc::c_long)?;
        raw.address().ok_or(Stop {
            call: "recvfrom".to_owned(),
            errno: libc::EAFNOSUPPORT,
        })
    }

    /// Memory of its receive queue in bytes (`SK_MEMINFO_RMEM_ALLOC`).
    pub fn memory(&self) -> Step<u32> {
        let mut info = [0_u32; 9];
        let mut length = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the value is written within the length given
        let result = unsafe {
            libc::getsockopt(
                self.fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        check("getsockopt", result.into()).map(|_| info[0])
    }

    /// Its local port.
    pub fn port(&self) -> Step<u16> {
        let mut raw = Raw::room();
        let (address, length) = raw.out();
        // SAFETY: the address is written within the length given
        let result = unsafe { libc::getsockname(self.fd(), address, length) };
        check("getsockname", result.into())?;
        Ok(raw.address().map_or(0, |a| a.port()))
    }
}

/// `AF_INET` or `AF_INET6`.
pub fn domain(address: IpAddr) -> c_int {
    if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }
}

/// The index of a device in this network namespace, 0 if it does not exist.
pub fn device_index(name: &std::ffi::CStr) -> u32 {
    // SAFETY: the name ends with a NUL
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}
