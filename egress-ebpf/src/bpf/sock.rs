//! Access to the state of a socket: word by word, because other CPUs may read and write it at the same time.
//! [`SocketState`] documents the readers and writers of each word.

use crate::bpf::maps::SOCKETS;
use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_netns_cookie, bpf_sk_storage_get,
};
use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use egress_ebpf::abi::{Comm, Mode, SocketState, socket_flag};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::Destination;
use egress_ebpf::ids::{CgroupId, NetnsCookie};

/// A socket's state.
///
/// This is sound while other CPUs access the state, because no reference to the state is created. Each access is one
/// volatile read or write of an aligned word. The compiler does not split, repeat or reorder these, and the CPU does
/// each at once. Two accesses are two moments. Values that must be of the same moment are one word or are written under
/// the socket's lock; [`SocketState`] says which. `comm` is two words, and no verdict depends on it. The pointer is valid
/// for `'a`: the kernel frees the storage with the socket, after an RCU grace period, and a program runs inside one.
/// A copy of a `Sock` is a copy of the pointer, so aliasing rules of references do not apply.
#[derive(Clone, Copy)]
pub struct Sock<'a> {
    state: NonNull<SocketState>,
    life: PhantomData<&'a ()>,
}

macro_rules! words {
    ($($get:ident $set:ident $field:ident: $type:ty;)*) => { $(
        #[inline(always)]
        pub fn $get(self) -> $type {
            // SAFETY: a valid, aligned word. Other CPUs may write it at the same time.
            unsafe { ptr::read_volatile(&raw const (*self.state.as_ptr()).$field) }
        }

        #[inline(always)]
        pub fn $set(self, value: $type) {
            // SAFETY: as above.
            unsafe { ptr::write_volatile(&raw mut (*self.state.as_ptr()).$field, value) }
        }
    )* };
}

impl<'a> Sock<'a> {
    /// The state of a socket, if it has one.
    ///
    /// `sk` is a socket pointer from the context of the running program.
    #[inline(always)]
    pub fn find(sk: *mut c_void) -> Option<Self> {
        Self::storage(sk, 0)
    }

    /// The state of a socket. Creates it, as zeroes, if there is none. `None` only without memory.
    #[inline(always)]
    pub fn find_or_make(sk: *mut c_void) -> Option<Self> {
        Self::storage(sk, BPF_SK_STORAGE_GET_F_CREATE as u64)
    }

    #[inline(always)]
    fn storage(sk: *mut c_void, flags: u64) -> Option<Self> {
        let map = ptr::from_ref(&SOCKETS).cast_mut().cast();
        // SAFETY: the verifier checks the types of `map` and `sk`. The value lives as long as the socket, which
        // outlives the program's run.
        let state = unsafe { bpf_sk_storage_get(map, sk, ptr::null_mut(), flags) };
        NonNull::new(state.cast()).map(|state| Self {
            state,
            life: PhantomData,
        })
    }

    /// A state that does not belong to a socket.
    #[inline(always)]
    pub fn of(state: &'a mut SocketState) -> Self {
        Self {
            state: NonNull::from(state),
            life: PhantomData,
        }
    }

    words! {
        cgroup set_cgroup cgroup: CgroupId;
        netns set_netns netns: NetnsCookie;
        passed set_passed passed: u64;
        judged set_judged judged: u64;
        answered set_answered answered: u64;
        heard_at set_heard_at heard_at: u64;
        heard set_heard heard: u64;
        port set_port port: u16;
        proto set_proto proto: u8;
        broadcasts set_broadcasts broadcasts: u8;
        pid set_pid pid: u32;
    }

    #[inline(always)]
    pub fn mode(self) -> Mode {
        // SAFETY: as in `words`.
        Mode(unsafe { ptr::read_volatile(&raw const (*self.state.as_ptr()).mode) })
    }

    /// Whether a datagram of this socket may go to a broadcast address, which only its route shows: the socket has set
    /// `SO_BROADCAST`, or it is older than the gate and may have.
    #[inline(always)]
    pub fn may_broadcast(self) -> bool {
        self.broadcasts() != 0 || !self.mode().has(socket_flag::OWNED)
    }

    /// Call it under the socket's lock, or before anybody else has the socket.
    #[inline(always)]
    pub fn set_mode(self, mode: Mode) {
        // SAFETY: as in `words`.
        unsafe { ptr::write_volatile(&raw mut (*self.state.as_ptr()).mode, mode.0) }
    }

    /// A stream's address as dialled. Without the socket's lock it may be a mixture of two addresses.
    #[inline(always)]
    pub fn dialled(self) -> Addr {
        // SAFETY: as in `words`.
        let word = |n: usize| unsafe {
            ptr::read_volatile(&raw const (*self.state.as_ptr()).dialled.be[n])
        };
        Addr::from_v6_be([word(0), word(1), word(2), word(3)])
    }

    /// The destination that a stream dialled. Call it under the socket's lock.
    #[inline(always)]
    pub fn destination(self) -> Destination {
        Destination {
            addr: self.dialled(),
            port: self.port(),
            proto: self.proto(),
        }
    }

    /// Stores the destination that a stream dials. Call it under the socket's lock.
    #[inline(always)]
    pub fn set_destination(self, to: &Destination) {
        let [a, b, c, d] = to.addr.be;
        // SAFETY: as in `words`.
        let put = |n: usize, word: u32| unsafe {
            ptr::write_volatile(&raw mut (*self.state.as_ptr()).dialled.be[n], word);
        };
        put(0, a);
        put(1, b);
        put(2, c);
        put(3, d);
        self.set_port(to.port);
        self.set_proto(to.proto);
    }

    /// The cookie of the socket's network namespace. `ctx` is the context of the running program.
    #[inline(always)]
    pub fn netns_or_ask(self, ctx: *mut c_void) -> NetnsCookie {
        let known = self.netns();
        if known != NetnsCookie(0) {
            return known;
        }
        // SAFETY: takes no pointer but the context.
        let netns = NetnsCookie(unsafe { bpf_get_netns_cookie(ctx) });
        self.set_netns(netns);
        netns
    }

    /// The name of the task that uses the socket, for events and the proxy.
    #[inline(always)]
    pub fn comm(self) -> Comm {
        // SAFETY: any bytes are valid. They are read as two words, so that the compiler does not copy each byte.
        unsafe {
            let words = (&raw const (*self.state.as_ptr()).comm).cast::<u64>();
            let two = [words.read_volatile(), words.add(1).read_volatile()];
            Comm(core::mem::transmute::<[u64; 2], [u8; 16]>(two))
        }
    }

    /// Notes which task uses the socket, unless its process is already noted. The name then stays that of the process's
    /// first use, also if another thread uses the socket. A denial always notes the task.
    #[inline(always)]
    pub fn note_process(self) {
        if self.pid() != current_process() {
            self.note_task();
        }
    }

    /// Notes which task uses the socket.
    #[inline(always)]
    pub fn note_task(self) {
        self.set_pid(current_process());
        // SAFETY: the buffer has the given length, and the helper fills it in any case.
        unsafe {
            let comm = &raw mut (*self.state.as_ptr()).comm;
            bpf_get_current_comm(comm.cast(), 16);
        }
    }
}

/// The thread group id of the running task.
#[inline(always)]
fn current_process() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}
