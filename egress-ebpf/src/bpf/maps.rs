//! Every map, with who writes it and who deletes from it. All but the log ring are pinned by the
//! agent and outlive it. Sizes are defaults; the agent may raise them before the maps are made.

use aya_ebpf::bindings::{
    BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
};
use aya_ebpf::btf_maps::{self, ArrayOfMaps, SkStorage};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use egress_ebpf::abi::{
    Ancestors, DenyKey, DenySeen, FlowKey, FlowOrigin, MAX_POLICIES, MAX_TABLES, PeerKey,
    ProxyPort, SocketState, TABLE_FLAGS, counter,
};
use egress_ebpf::ids::{CgroupId, NetnsCookie};

/// [Policies](egress_ebpf::abi::Policy::word) by id. Written by the agent, through its memory, word by
/// word; zeroed by it when a policy goes.
#[map]
pub static POLICIES: Array<u64> = Array::with_max_entries(MAX_POLICIES, BPF_F_MMAPABLE);

/// The highest generation that a policy ever had. Written by the agent before that policy.
#[map]
pub static GENERATION: Array<u64> = Array::with_max_entries(1, 0);

/// Cgroup id of a workload to its [`Owner`](egress_ebpf::abi::Owner) entry. Written and deleted by
/// the agent.
#[map]
pub static OWNERS: HashMap<CgroupId, u64> = HashMap::with_max_entries(16_384, 0);

/// Ancestors of cgroups that sockets were made in. Written by `sock_create` and the LSM hook, once for
/// each cgroup; the one that was looked for longest ago gives way, whether its cgroup is there or not.
/// A workload that fills it takes the place of cgroups that make no sockets and judge none.
#[map]
pub static ANCESTORS: LruHashMap<CgroupId, Ancestors> = LruHashMap::with_max_entries(16_384, 0);

/// Rule tables by id, each an array of [`Line`](egress_ebpf::table::Line)s. The agent makes the arrays, writes them through
/// its memory, and puts them in their places here.
#[btf_map]
pub static TABLES: ArrayOfMaps<LineArray, { MAX_TABLES as usize }> = ArrayOfMaps::new();

/// A line as an array knows it, by its size.
pub type LineArray = btf_maps::Array<[u64; 8], 1, { TABLE_FLAGS as usize }>;

/// Stands in the place of a table that is gone: without a bucket. Never written. To put it there
/// takes one call for many tables; to delete them takes one for each.
#[map]
pub static VACANT: Array<[u64; 8]> = Array::with_max_entries(1, TABLE_FLAGS);

/// Proxy listeners by network namespace cookie. Written and deleted by the agent.
#[map]
pub static PROXIES: HashMap<NetnsCookie, ProxyPort> = HashMap::with_max_entries(4096, 0);

/// Redirected flows between SYN and the end of the handshake. Written by the backstop before the
/// SYN leaves, deleted by the agent's sock_ops. What a handshake that came to nothing leaves behind
/// is replaced by the next flow from its address, or evicted when the table is full. An element
/// that was evicted may be written for another flow while it is read: its seal shows that.
#[map]
pub static FLOWS: LruHashMap<FlowKey, FlowOrigin> = LruHashMap::with_max_entries(65_536, 0);

/// State of a workload's socket. Written by the hooks; gone with the socket. An accepted socket
/// begins with a copy of its listener's.
#[btf_map]
pub static SOCKETS: InheritedStorage<SocketState> = InheritedStorage::new();

/// Where an accepted connection of the proxy was going. Written by the agent's sock_ops, read by
/// the agent; gone with the socket.
#[btf_map]
pub static ORIGINS: SkStorage<FlowOrigin> = SkStorage::new();

/// The proxy's listening sockets: a flow is redirected only to a socket with an entry. Written by
/// the agent; gone with the socket, so that nobody can take its place after the agent's death.
#[btf_map]
pub static LISTENERS: SkStorage<u32> = SkStorage::new();

/// Refusals. Written by the hooks, drained by the agent.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// Refusals of the last moments. Written by the hooks; the oldest is evicted.
#[map]
pub static DENIES: LruHashMap<DenyKey, DenySeen> = LruHashMap::with_max_entries(8192, 0);

/// Events of this CPU in the running window. Written by the hooks.
#[map]
pub static RATE: PerCpuArray<DenySeen> = PerCpuArray::with_max_entries(1, 0);

/// Peers that wrote first: the time of their last datagram, of `judge::of_peer`. Written by
/// recvmsg; the oldest is evicted.
#[map]
pub static PEERS: LruHashMap<PeerKey, u64> = LruHashMap::with_max_entries(65_536, 0);

/// Peers that a workload has noted in the running second, by its cgroup. Written by recvmsg; the
/// oldest is evicted.
#[map]
pub static SHARES: LruHashMap<CgroupId, DenySeen> = LruHashMap::with_max_entries(4096, 0);

/// [`counter`]. Written by the hooks, read by the agent.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

/// [`SkStorage`] with `BPF_F_CLONE`: `sk_clone_lock` copies the value to an accepted socket. The
/// fields are what the loader reads in the type information; nothing is behind the pointers.
#[repr(C)]
pub struct InheritedStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: pointers that are never followed.
unsafe impl<T> Sync for InheritedStorage<T> {}

impl<T> InheritedStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(index: u32) {
    // Makes another program of everything that counts, and changes nothing that it does.
    // SAFETY: takes no argument and only says which CPU this is.
    #[cfg(feature = "next")]
    unsafe {
        aya_ebpf::helpers::bpf_get_smp_processor_id()
    };
    if let Some(value) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a per-CPU slot that only this CPU writes; a softirq in between loses one count.
        unsafe { *value += 1 };
    }
}
