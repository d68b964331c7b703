//! The pinned table of redirected flows, filled and emptied by bare `bpf(2)` calls.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use egress_ebpf::abi::{FlowKey, FlowOrigin};

const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const OBJ_GET: libc::c_long = 7;

/// The head of `union bpf_attr` for commands on an element of a map.
#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The same for an object's path.
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_long, attribute: &mut T) -> io::Result<i32> {
    // SAFETY: the attribute is read for its own length, and points to what outlives the call
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attribute),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// The table, and what was put into it.
pub(super) struct Flows {
    fd: OwnedFd,
    keys: Vec<FlowKey>,
}

impl Flows {
    pub(super) fn open(pin: &Path) -> io::Result<Self> {
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let fd = bpf(
            OBJ_GET,
            &mut Object {
                path: path.as_ptr() as u64,
                fd: 0,
                flags: 0,
            },
        )?;
        Ok(Self {
            // SAFETY: the kernel just made it for this process
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            keys: Vec::new(),
        })
    }

    fn element(&self, command: libc::c_long, key: &FlowKey) -> io::Result<()> {
        let value = FlowOrigin::default();
        bpf(
            command,
            &mut Element {
                map: self.fd.as_raw_fd().cast_unsigned(),
                pad: 0,
                key: std::ptr::from_ref(key) as u64,
                // A deletion must have none.
                value: if command == MAP_UPDATE_ELEM {
                    std::ptr::from_ref(&value) as u64
                } else {
                    0
                },
                flags: 0,
            },
        )
        .map(drop)
    }

    /// Puts in flows of no namespace until the kernel takes no more; how many.
    pub(super) fn fill(&mut self) -> io::Result<usize> {
        for number in 0_u64.. {
            let key = FlowKey {
                netns: u64::MAX - number,
                ..FlowKey::default()
            };
            match self.element(MAP_UPDATE_ELEM, &key) {
                Ok(()) => self.keys.push(key),
                Err(e) if e.raw_os_error() == Some(libc::E2BIG) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(self.keys.len())
    }

    /// Takes out what was put in.
    pub(super) fn empty(&mut self) -> io::Result<()> {
        for key in std::mem::take(&mut self.keys) {
            self.element(MAP_DELETE_ELEM, &key)?;
        }
        Ok(())
    }
}
