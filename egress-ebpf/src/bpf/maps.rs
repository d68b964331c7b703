//! Every map, with who writes it and who deletes from it. All but the log ring are pinned by the
//! agent and outlive it. Sizes are defaults; the agent may raise them before the maps are made.

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use egress_ebpf::abi::{
    DenyKey, DenySeen, FlowKey, FlowOrigin, MAX_POLICIES, PREFIX_FIXED_BITS, PeerKey, Policy,
    PrefixData, ProxyPort, Rule, RuleKey, SocketState, counter,
};
use egress_ebpf::decide::Tables;

/// Policies by id. Written by the agent; zeroed by it when a policy goes.
#[map]
pub static POLICIES: Array<Policy> = Array::with_max_entries(MAX_POLICIES, 0);

/// Cgroup id of a workload to policy id. Written and deleted by the agent.
#[map]
pub static OWNERS: HashMap<u64, u32> = HashMap::with_max_entries(16_384, 0);

/// Exact destinations. Written and deleted by the agent.
#[map]
pub static RULES: HashMap<RuleKey, Rule> = HashMap::with_max_entries(1 << 20, NO_PREALLOC);

/// CIDR destinations. Written and deleted by the agent.
#[map]
pub static PREFIXES: LpmTrie<PrefixData, Rule> = LpmTrie::with_max_entries(1 << 20, NO_PREALLOC);

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

/// `BPF_F_NO_PREALLOC`: a table takes the memory of its entries, not of its limit.
const NO_PREALLOC: u32 = 1;

/// The rule maps as the decision sees them.
pub struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn exact(&self, key: &RuleKey) -> Option<Rule> {
        // SAFETY: the value is one word, copied out at once; a concurrent update replaces it whole.
        unsafe { RULES.get(key).copied() }
    }

    #[inline(always)]
    fn prefix(&self, data: &PrefixData) -> Option<Rule> {
        PREFIXES
            .get(Key::new(PREFIX_FIXED_BITS + 128, *data))
            .copied()
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
