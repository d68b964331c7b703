//! The state of a socket as a program may touch it: word by word, since other CPUs may read and
//! write it at the same time. [`SocketState`] documents the readers and writers of each word.

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
/// Sound with other CPUs at work, because no reference to the state is ever made and none is handed
/// out: each access is one volatile read or write of an aligned word, which the compiler neither splits,
/// repeats nor moves before another one, and which the CPU does whole. Two accesses are two moments;
/// what must be of one moment is one word, or is written under the socket's lock ([`SocketState`] says
/// which); `comm` is two words, a name that nothing is judged by. The pointer is valid for as long as
/// `'a`: the kernel frees the storage with the socket, after an RCU grace period, and a program runs
/// inside one. Copies of a `Sock` are copies of the pointer, so aliasing rules of references do not apply.
#[derive(Clone, Copy)]
pub struct Sock<'a> {
    state: NonNull<SocketState>,
    life: PhantomData<&'a ()>,
}

macro_rules! words {
    ($($get:ident $set:ident $field:ident: $type:ty;)*) => { $(
        #[inline(always)]
        pub fn $get(self) -> $type {
            // SAFETY: a valid, aligned word, whatever another CPU makes of it at the same time.
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
    /// `sk` is a socket pointer as the context of the running program gives it.
    #[inline(always)]
    pub fn find(sk: *mut c_void) -> Option<Self> {
        Self::storage(sk, 0)
    }

    /// The state of a socket, made of zeroes if it has none. `None` only out of memory.
    #[inline(always)]
    pub fn find_or_make(sk: *mut c_void) -> Option<Self> {
        Self::storage(sk, BPF_SK_STORAGE_GET_F_CREATE as u64)
    }

    #[inline(always)]
    fn storage(sk: *mut c_void, flags: u64) -> Option<Self> {
        let map = ptr::from_ref(&SOCKETS).cast_mut().cast();
        // SAFETY: the verifier holds `map` and `sk` to their types. The value lives as long as the
        // socket, which outlives the program's run.
        let state = unsafe { bpf_sk_storage_get(map, sk, ptr::null_mut(), flags) };
        NonNull::new(state.cast()).map(|state| Self {
            state,
            life: PhantomData,
        })
    }

    /// State that is no socket's yet.
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

    /// Whether a datagram of this socket may go to a broadcast address, which only its route says: a
    /// socket that said so, and one of which it is not known.
    #[inline(always)]
    pub fn may_broadcast(self) -> bool {
        self.broadcasts() != 0 || !self.mode().has(socket_flag::OWNED)
    }

    /// Under the socket's lock, or before anybody else has the socket.
    #[inline(always)]
    pub fn set_mode(self, mode: Mode) {
        // SAFETY: as in `words`.
        unsafe { ptr::write_volatile(&raw mut (*self.state.as_ptr()).mode, mode.0) }
    }

    /// A stream's address as dialled. Under the socket's lock; else it may be a mixture of two.
    #[inline(always)]
    pub fn dialled(self) -> Addr {
        // SAFETY: as in `words`.
        let word = |n: usize| unsafe {
            ptr::read_volatile(&raw const (*self.state.as_ptr()).dialled.be[n])
        };
        Addr::from_v6_be([word(0), word(1), word(2), word(3)])
    }

    /// Where a stream was dialled to. Under the socket's lock.
    #[inline(always)]
    pub fn destination(self) -> Destination {
        Destination {
            addr: self.dialled(),
            port: self.port(),
            proto: self.proto(),
        }
    }

    /// Notes where a stream is dialled to. Under the socket's lock.
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
        // SAFETY: bytes of any value; as two words, so that the compiler does not copy each.
        unsafe {
            let words = (&raw const (*self.state.as_ptr()).comm).cast::<u64>();
            let two = [words.read_volatile(), words.add(1).read_volatile()];
            Comm(core::mem::transmute::<[u64; 2], [u8; 16]>(two))
        }
    }

    /// Notes which task uses the socket, unless its process did before: the name stays the one that
    /// the process, or another of its threads, had then. A denial is noted whole.
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
        // SAFETY: a buffer of the length given, which the helper fills whatever the result.
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
