//! Sets with rtnetlink(7) what `ip link` of some distributions cannot set.
//!
//! Owns one message and its answer. The message is sent in the calling thread's namespace.

use std::ffi::CString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::FromRawFd as _;

/// Attributes of `include/uapi/linux/if_link.h`; those of IPv4 are since Linux 6.3.
const GSO_MAX_SIZE: u16 = 41;
const GRO_MAX_SIZE: u16 = 58;
const GSO_IPV4_MAX_SIZE: u16 = 63;
const GRO_IPV4_MAX_SIZE: u16 = 64;

/// Lengths of `nlmsghdr` with `ifinfomsg`, and of an attribute with 32 bits.
const HEADERS: usize = 32;
const ATTRIBUTE: usize = 8;

/// Sets the four sizes of a device.
pub(super) fn segments(device: &str, bytes: u32) -> io::Result<()> {
    let name = CString::new(device)?;
    // SAFETY: the string ends with a zero and outlives the call
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let sizes = [
        GSO_MAX_SIZE,
        GRO_MAX_SIZE,
        GSO_IPV4_MAX_SIZE,
        GRO_IPV4_MAX_SIZE,
    ];
    let mut message = Vec::new();
    // nlmsghdr: length, type, flags, sequence, port.
    message.extend(((HEADERS + ATTRIBUTE * sizes.len()) as u32).to_ne_bytes());
    message.extend(libc::RTM_NEWLINK.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([0; 8]);
    // ifinfomsg: family and type, index, flags, mask of what changes.
    message.extend([0; 4]);
    message.extend(index.to_ne_bytes());
    message.extend([0; 8]);
    for size in sizes {
        message.extend((ATTRIBUTE as u16).to_ne_bytes());
        message.extend(size.to_ne_bytes());
        message.extend(bytes.to_ne_bytes());
    }
    // SAFETY: no memory is passed
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it
    let mut socket = unsafe { std::fs::File::from_raw_fd(fd) };
    socket.write_all(&message)?;
    let mut answer = [0; 256];
    let length = socket.read(&mut answer)?;
    // nlmsgerr: the header, then the errno, negative, or 0.
    match answer[..length]
        .get(16..20)
        .and_then(|errno| errno.try_into().ok())
    {
        Some(errno) => match i32::from_ne_bytes(errno) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        },
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
