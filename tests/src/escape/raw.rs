//! The arguments of the plain calls of `sock`: addresses and messages in the kernel's form.

use libc::{c_int, socklen_t};
use std::mem;
use std::net::{IpAddr, SocketAddr};

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

    /// `AF_UNSPEC`.
    pub fn unspecified() -> Self {
        Self::of(&libc::sockaddr_in {
            sin_family: libc::AF_UNSPEC as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: 0 },
            sin_zero: [0; 8],
        })
    }

    /// Room for an address that the kernel writes.
    pub fn room() -> Self {
        Self {
            length: mem::size_of::<libc::sockaddr_storage>() as socklen_t,
            ..Self::unspecified()
        }
    }

    /// Pointers for a call that writes an address and its length.
    pub fn out(&mut self) -> (*mut libc::sockaddr, *mut socklen_t) {
        ((&raw mut self.storage).cast(), &raw mut self.length)
    }

    /// A pointer for a call.
    pub fn pointer(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    /// Its length in bytes.
    pub fn length(&self) -> socklen_t {
        self.length
    }

    /// The IP address, if it is one.
    pub fn address(&self) -> Option<SocketAddr> {
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

    /// The header. It is valid as long as this value and its parts.
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
