//! Every map, with who writes to it and who deletes from it. `PINNED_MAPS` of the loader lists those that are
//! pinned and outlive the agent.

use aya_ebpf::bindings::{
    BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
};
use aya_ebpf::btf_maps::{self, ArrayOfMaps, SkStorage};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use egress_ebpf::abi::{
    Ancestors, DenyKey, DenySeen, DnsClient, DnsClientKey, DnsServers, FlowKey, FlowOrigin,
    MAX_POLICIES, MAX_TABLES, PeerKey, ProxyPort, SocketState, TABLE_FLAGS, counter,
};
use egress_ebpf::ids::{CgroupId, NetnsCookie};

/// [Policies](egress_ebpf::abi::Policy::word) by id. The agent writes them through its memory, word by word, and
/// writes 0 to remove one.
#[map]
pub static POLICIES: Array<u64> = Array::with_max_entries(MAX_POLICIES, BPF_F_MMAPABLE);

/// The highest generation that a policy has had. The agent writes it before that policy. For agents alone: above its 32
/// bits, whether sockets may hold verdicts of policies that their cgroups left.
#[map]
pub static GENERATION: Array<u64> = Array::with_max_entries(1, 0);

/// Cgroup id of a workload to its [`Owner`](egress_ebpf::abi::Owner) entry. Written and deleted by
/// the agent.
#[map]
pub static OWNERS: HashMap<CgroupId, u64> = HashMap::with_max_entries(16_384, 0);

/// Ancestors of the cgroups in which sockets were created. `sock_create` and the LSM hook write an entry once for
/// each cgroup. A full map evicts the entry whose last lookup is the longest ago. So a workload that fills the map
/// evicts entries of cgroups that neither create sockets nor have packets judged.
#[map]
pub static ANCESTORS: LruHashMap<CgroupId, Ancestors> = LruHashMap::with_max_entries(16_384, 0);

/// Rule tables by id, each an array of [`Line`](egress_ebpf::table::Line)s. The agent creates the arrays, writes
/// them through its memory, and puts them here.
#[btf_map]
pub static TABLES: ArrayOfMaps<LineArray, { MAX_TABLES as usize }> = ArrayOfMaps::new();

/// An array of lines.
pub type LineArray = btf_maps::Array<[u64; 8], 1, { TABLE_FLAGS as usize }>;

/// An empty table without buckets, which replaces removed tables. Never written. Replacing takes one call for many
/// tables; deleting would take one call for each.
#[map]
pub static VACANT: Array<[u64; 8]> = Array::with_max_entries(1, TABLE_FLAGS);

/// Proxy listeners by network namespace cookie. Written and deleted by the agent.
#[map]
pub static PROXIES: HashMap<NetnsCookie, ProxyPort> = HashMap::with_max_entries(4096, 0);

/// Redirected flows between the SYN and the end of the handshake. The backstop writes an entry before the SYN
/// leaves, and the agent's sock_ops deletes it. The entry of a handshake that did not end is replaced by the next
/// flow from the same address, or evicted when the table is full. An evicted element may be written for another flow
/// while it is read, which its seal shows.
#[map]
pub static FLOWS: LruHashMap<FlowKey, FlowOrigin> = LruHashMap::with_max_entries(65_536, 0);

/// State of a workload's socket. Written by the hooks; freed with the socket. An accepted socket starts with a copy
/// of its listener's state.
#[btf_map]
pub static SOCKETS: InheritedStorage<SocketState> = InheritedStorage::new();

/// The origin of a connection that the proxy accepted. Written by the agent's sock_ops, read by the agent; freed
/// with the socket.
#[btf_map]
pub static ORIGINS: SkStorage<FlowOrigin> = SkStorage::new();

/// The proxy's listening sockets: a flow is redirected only to a socket with an entry. Written by the agent. The
/// entry is freed with the socket, so that no other process can take the socket's place after the agent's death.
#[btf_map]
pub static LISTENERS: SkStorage<u32> = SkStorage::new();

/// Events of denials. Written by the hooks, read by the agent.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// Recent denials, to recognise repeats. Written by the hooks; a full map evicts the oldest.
#[map]
pub static DENIES: LruHashMap<DenyKey, DenySeen> = LruHashMap::with_max_entries(8192, 0);

/// Events of this CPU in the present second. Written by the hooks.
#[map]
pub static RATE: PerCpuArray<DenySeen> = PerCpuArray::with_max_entries(1, 0);

/// Events of a cgroup in the present second. Written by the hooks; a full map evicts the oldest.
#[map]
pub static EVENT_SHARES: LruHashMap<CgroupId, DenySeen> = LruHashMap::with_max_entries(4096, 0);

/// Peers that wrote first, with the time of their last datagram plus `judge::of_peer`. Written by recvmsg; a full
/// map evicts the oldest.
#[map]
pub static PEERS: LruHashMap<PeerKey, u64> = LruHashMap::with_max_entries(65_536, 0);

/// Peers that a cgroup has added in the present second. Written by recvmsg; a full map evicts the oldest.
#[map]
pub static SHARES: LruHashMap<CgroupId, DenySeen> = LruHashMap::with_max_entries(4096, 0);

/// The servers that a datagram socket asks. Written by connect and sendmsg; freed with the socket. Sockets that ask no
/// server have none.
#[btf_map]
pub static DNS_SERVERS: SkStorage<DnsServers> = SkStorage::new();

/// The owners of redirected datagrams. Written by the egress hook before the datagram leaves, read by the agent. A full
/// map evicts the entry whose last datagram is the longest ago. An evicted element may be written for another address
/// while it is read, which its seal shows.
#[map]
pub static DNS_CLIENTS: LruHashMap<DnsClientKey, DnsClient> =
    LruHashMap::with_max_entries(65_536, 0);

/// Entries of [`DNS_CLIENTS`] that a cgroup has added in the present second. Written by the egress hook; a full map
/// evicts the oldest.
#[map]
pub static DNS_SHARES: LruHashMap<CgroupId, DenySeen> = LruHashMap::with_max_entries(4096, 0);

/// [`counter`]. Written by the hooks, read by the agent.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

/// [`SkStorage`] with `BPF_F_CLONE`: `sk_clone_lock` copies the value to an accepted socket. The loader reads the
/// fields in the type information. The pointers are never followed.
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
    // For tests of an upgrade: the call changes every program that counts, but not what it does.
    // SAFETY: takes no argument and only says which CPU this is.
    #[cfg(feature = "next")]
    unsafe {
        aya_ebpf::helpers::bpf_get_smp_processor_id()
    };
    if let Some(value) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: only this CPU writes the per-CPU slot. A softirq in between can lose a count.
        unsafe { *value += 1 };
    }
}
