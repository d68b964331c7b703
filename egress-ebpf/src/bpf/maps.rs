//! Every map, with who writes it and who deletes from it. All but the log ring are pinned by the
//! agent and outlive it. Sizes are defaults; the agent may raise them before the maps are made.

use aya_ebpf::btf_maps::{self, ArrayOfMaps, SkStorage};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use egress_ebpf::abi::{
    DenyKey, DenySeen, FlowKey, FlowOrigin, MAX_POLICIES, MAX_TABLES, PeerKey, Policy, ProxyPort,
    Rule, SocketState, TABLE_FLAGS, counter,
};
use egress_ebpf::decide::{Destination, Tables};
use egress_ebpf::table::{self, Key, Line, Lines, Table};

/// Policies by id. Written by the agent; zeroed by it when a policy goes.
#[map]
pub static POLICIES: Array<Policy> = Array::with_max_entries(MAX_POLICIES, 0);

/// Cgroup id of a workload to policy id. Written and deleted by the agent.
#[map]
pub static OWNERS: HashMap<u64, u32> = HashMap::with_max_entries(16_384, 0);

/// Rule tables by id, each an array of [`Line`]s. The agent makes the arrays, writes them through
/// its memory, and puts them in their places here.
#[btf_map]
pub static TABLES: ArrayOfMaps<LineArray, { MAX_TABLES as usize }> = ArrayOfMaps::new();

/// A line as an array knows it; [`Line`] by its size.
type LineArray = btf_maps::Array<[u64; 8], 1, { TABLE_FLAGS as usize }>;

/// Stands in the place of a table that is gone: without a bucket. Never written. To put it there
/// takes one call for many tables; to delete them takes one for each.
#[map]
pub static VACANT: Array<[u64; 8]> = Array::with_max_entries(1, TABLE_FLAGS);

/// Proxy listeners by network namespace cookie. Written and deleted by the agent.
#[map]
pub static PROXIES: HashMap<u64, ProxyPort> = HashMap::with_max_entries(4096, 0);

/// Redirected flows between SYN and the end of the handshake. Written by the workload's sock_ops,
/// deleted by the agent's.
#[map]
pub static FLOWS: HashMap<FlowKey, FlowOrigin> = HashMap::with_max_entries(65_536, 0);

/// State of a workload's socket. Written by the hooks; gone with the socket.
#[btf_map]
pub static SOCKETS: SkStorage<SocketState> = SkStorage::new();

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

/// Refusals of the last moments. Written by the hooks; the oldest gives way.
#[map]
pub static DENIES: LruHashMap<DenyKey, DenySeen> = LruHashMap::with_max_entries(8192, 0);

/// Events of this CPU in the running window. Written by the hooks.
#[map]
pub static RATE: PerCpuArray<DenySeen> = PerCpuArray::with_max_entries(1, 0);

/// Peers that wrote first, by the time of their last datagram. Written by recvmsg; the oldest
/// gives way.
#[map]
pub static PEERS: LruHashMap<PeerKey, u64> = LruHashMap::with_max_entries(65_536, 0);

/// [`counter`]. Written by the hooks, read by the agent.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

/// One table's lines.
#[derive(Clone, Copy)]
struct InnerLines<'a>(&'a LineArray);

impl Lines for InnerLines<'_> {
    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        // SAFETY: a value of the array is 64 bytes, aligned to eight, and stays while the program
        // runs; a line is words that may change at any time.
        self.0.get_ptr(index).map(|line| unsafe { &*line.cast() })
    }
}

/// The rule tables as the decision sees them.
pub struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn find(&self, id: u32, prefixes: bool, to: &Destination) -> Option<Rule> {
        table::find(&ById(id), prefixes, to)
    }
}

/// The table of this id.
struct ById(u32);

impl Table for ById {
    #[inline(always)]
    fn action(&self, of: Key) -> u32 {
        table_action(self.0, of.kind, of.high, of.low) as u32
    }

    #[inline(always)]
    fn narrowest(&self, of: Key, list: u32) -> u32 {
        table_narrowest(self.0, of.kind, of.high, of.low, list) as u32
    }
}

// Functions of plain numbers, which the verifier walks once, each by itself: walked on every path
// of a program that leads to them, they would go beyond what it is ready to walk. Results fill
// their register, so that it knows all of one that was compared.

/// [`table::action`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table_action(id: u32, kind: u32, high: u64, low: u64) -> u64 {
    let of = Key { high, low, kind };
    TABLES
        .get(id)
        .map_or(0, |lines| u64::from(table::action(InnerLines(lines), of)))
}

/// [`table::narrowest`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table_narrowest(id: u32, kind: u32, high: u64, low: u64, list: u32) -> u64 {
    let of = Key { high, low, kind };
    let action = |bits| ById(id).action(of.of_bits(bits));
    TABLES.get(id).map_or(0, |lines| {
        u64::from(table::narrowest(InnerLines(lines), list, action))
    })
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
