//! Sockets of any family by bare system calls, for probes: an error says which call the kernel
//! refused and how.
//!
//! Owns the calls. What a probe tries with them is in the files beside this one.

use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use libc::{c_int, c_void, socklen_t};

/// The call at which a probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The system call, or the option that it was about.
    pub call: String,
    /// Its errno.
    pub errno: i32,
}

/// What a step of a probe gives.
pub type Step<T = ()> = Result<T, Stop>;

/// How long a call of a probe may block: what the kernel drops without a word ends by this.
const PATIENCE: Duration = Duration::from_millis(200);

/// The result of a system call, with its name where it failed.
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
    /// `socket()`, with timeouts on what blocks.
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
        // Families without these options do not block either.
        let _ = sock.set(libc::SOL_SOCKET, libc::SO_SNDTIMEO, &patience);
        let _ = sock.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience);
        // A connection ends with its probe: what is sent again later would count for another one.
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

    /// One that another call made.
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
        let result = unsafe { libc::bind(self.fd(), raw.pointer(), raw.length) };
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
        let result = unsafe { libc::connect(self.fd(), raw.pointer(), raw.length) };
        check("connect", result.into()).map(drop)
    }

    /// `connect()` to `AF_UNSPEC`: undoes an association.
    pub fn disconnect(&self) -> Step {
        let mut raw = Raw::new(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0));
        raw.storage.ss_family = libc::AF_UNSPEC as libc::sa_family_t;
        self.connect_raw(&raw)
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
                raw.length,
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

    /// `sendmmsg()` of one datagram to each address; how many went.
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

    /// `recvfrom()`, for the sender of a datagram.
    pub fn sender(&self, flags: c_int) -> Step<SocketAddr> {
        let mut buffer = [0_u8; 2048];
        let mut raw = Raw::new(SocketAddr::new(IpAddr::from([0; 16]), 0));
        raw.length = mem::size_of::<libc::sockaddr_storage>() as socklen_t;
        // SAFETY: buffer and address are written within the lengths given
        let result = unsafe {
            libc::recvfrom(
                self.fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                flags,
                (&raw mut raw.storage).cast(),
                &raw mut raw.length,
            )
        };
        check("recvfrom", result as libc::c_long)?;
        raw.address().ok_or(Stop {
            call: "recvfrom".to_owned(),
            errno: libc::EAFNOSUPPORT,
        })
    }

    /// The port that it is bound to.
    pub fn port(&self) -> Step<u16> {
        let mut raw = Raw::new(SocketAddr::new(IpAddr::from([0; 16]), 0));
        // SAFETY: the address is written within the length given
        let result = unsafe {
            libc::getsockname(
                self.fd(),
                (&raw mut raw.storage).cast(),
                &raw mut raw.length,
            )
        };
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

/// The index of a device in this network namespace, 0 where there is none.
pub fn device_index(name: &std::ffi::CStr) -> u32 {
    // SAFETY: the name ends with a NUL
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// A socket address as the kernel reads it.
pub struct Raw {
    storage: libc::sockaddr_storage,
    length: socklen_t,
}

impl Raw {
    /// Of an IP address.
    pub fn new(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(a) => Self::of(&libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: a.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(a.ip().octets()),
                },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(a) => Self::of(&libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: a.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: a.ip().octets(),
                },
                sin6_scope_id: a.scope_id(),
            }),
        }
    }

    /// Of any `sockaddr_*`, which begins with its family.
    pub fn of<T: Copy>(address: &T) -> Self {
        assert!(mem::size_of::<T>() <= mem::size_of::<libc::sockaddr_storage>());
        // SAFETY: all zeroes are a valid value of this plain structure
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        // SAFETY: the source fits, as asserted
        unsafe {
            std::ptr::copy_nonoverlapping(
                std::ptr::from_ref(address).cast::<u8>(),
                (&raw mut storage).cast::<u8>(),
                mem::size_of::<T>(),
            );
        }
        Self {
            storage,
            length: mem::size_of::<T>() as socklen_t,
        }
    }

    /// A pointer for a call.
    pub fn pointer(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    /// How many bytes of it count.
    pub fn length(&self) -> socklen_t {
        self.length
    }

    fn address(&self) -> Option<SocketAddr> {
        match c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says which structure the kernel wrote
                let a = unsafe { *(&raw const self.storage).cast::<libc::sockaddr_in>() };
                let ip = IpAddr::from(a.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::new(ip, u16::from_be(a.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: the family says which structure the kernel wrote
                let a = unsafe { *(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let ip = IpAddr::from(a.sin6_addr.s6_addr);
                Some(SocketAddr::new(ip, u16::from_be(a.sin6_port)))
            }
            _ => None,
        }
    }
}

/// The parts of one `msghdr`.
pub struct Message {
    part: libc::iovec,
    name: *const libc::sockaddr,
    name_length: socklen_t,
    /// In words, for the alignment of `cmsghdr`.
    control: Vec<u64>,
}

impl Message {
    /// One part, one address, at most one control message.
    pub fn new(bytes: &[u8], raw: &Raw, control: Option<(c_int, c_int, &[u8])>) -> Self {
        let control = control.map_or_else(Vec::new, |(level, kind, data)| {
            let mut words = vec![0_u64; 2 + data.len().div_ceil(8)];
            words[0] = 16 + data.len() as u64;
            words[1] = u64::from(level.cast_unsigned()) | u64::from(kind.cast_unsigned()) << 32;
            for (word, chunk) in words[2..].iter_mut().zip(data.chunks(8)) {
                let mut bytes = [0; 8];
                bytes[..chunk.len()].copy_from_slice(chunk);
                *word = u64::from_ne_bytes(bytes);
            }
            words
        });
        Self {
            part: libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            },
            name: raw.pointer(),
            name_length: raw.length,
            control,
        }
    }

    /// The header, good as long as this and what it was made of.
    pub fn header(&mut self) -> libc::msghdr {
        // SAFETY: all zeroes are a valid value of this plain structure
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_name = self.name.cast_mut().cast();
        header.msg_namelen = self.name_length;
        header.msg_iov = &raw mut self.part;
        header.msg_iovlen = 1;
        if !self.control.is_empty() {
            header.msg_control = self.control.as_mut_ptr().cast();
            header.msg_controllen = self.control.len() * 8;
        }
        header
    }
}
