//! The objects pinned below an agent's `--bpf-dir`: entries of its maps, and the programs that its
//! links run.

use anyhow::{Context as _, Result};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, SkStorage};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use egress_ebpf::abi::{
    ANSWER_NS, Ancestors, FlowKey, FlowOrigin, Owner, PeerKey, ProxyPort, SocketState,
};
use egress_ebpf::ids::{CgroupId, NetnsCookie};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Namespaces in which a proxy listens.
pub fn proxies(bpf_dir: &Path) -> Result<usize> {
    entries::<NetnsCookie, ProxyPort>(bpf_dir, "PROXIES")
}

/// Those namespaces, by cookie.
pub fn proxy_namespaces(bpf_dir: &Path) -> Result<Vec<NetnsCookie>> {
    let proxies = table::<NetnsCookie, ProxyPort>(bpf_dir, "PROXIES")?;
    Ok(proxies.keys().collect::<std::result::Result<_, _>>()?)
}

/// The ports of the agent's DNS server in the first of those namespaces that has one.
pub fn dns_ports(bpf_dir: &Path) -> Result<Vec<u16>> {
    let proxies = table::<NetnsCookie, ProxyPort>(bpf_dir, "PROXIES")?;
    let all = proxies.iter().filter_map(std::result::Result::ok);
    let mut ports = all.map(|(_, ports)| ports.dns);
    let ports = ports.find(|ports| ports[0] != 0);
    Ok(ports.map_or_else(Vec::new, |ports| ports.to_vec()))
}

/// Makes the kernel forget the proxy of a namespace.
pub fn forget_proxy(bpf_dir: &Path, netns: NetnsCookie) -> Result<()> {
    Ok(table::<NetnsCookie, ProxyPort>(bpf_dir, "PROXIES")?.remove(&netns)?)
}

/// Cgroups with a policy of their own.
pub fn owners(bpf_dir: &Path) -> Result<usize> {
    entries::<CgroupId, u64>(bpf_dir, "OWNERS")
}

/// Whether a cgroup has a policy of its own.
pub fn has_owner(bpf_dir: &Path, cgroup: u64) -> Result<bool> {
    let owners = table::<CgroupId, u64>(bpf_dir, "OWNERS")?;
    match owners.get(&CgroupId(cgroup), 0) {
        Ok(_) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives a cgroup the policy of another one as an agent does first when a workload moves, and stops there, as if the agent
/// had ended before the verdicts that sockets hold of its former policy are judged again.
pub fn move_owner_only(bpf_dir: &Path, cgroup: u64, to_that_of: u64) -> Result<()> {
    let map = MapData::from_pin(abi(bpf_dir)?.join("maps/GENERATION"))?;
    let mut generation: Array<_, u64> = Map::Array(map).try_into()?;
    let unsettled = generation.get(&0, 0)? | 1 << 32;
    generation.set(0, unsettled, 0)?;
    let mut owners = table::<CgroupId, u64>(bpf_dir, "OWNERS")?;
    let to = CgroupId(to_that_of);
    let policy = Owner::policy(to, owners.get(&to, 0)?);
    let cgroup = CgroupId(cgroup);
    Ok(owners.insert(cgroup, Owner::entry(cgroup, policy), 0)?)
}

/// Removes the kernel's entry for the ancestors of a cgroup, as if newer entries had replaced it.
pub fn forget_ancestors(bpf_dir: &Path, cgroup: u64) -> Result<()> {
    let map = MapData::from_pin(abi(bpf_dir)?.join("maps/ANCESTORS"))?;
    let mut ancestors: HashMap<_, CgroupId, Ancestors> = Map::LruHashMap(map).try_into()?;
    Ok(ancestors.remove(&CgroupId(cgroup))?)
}

/// Redirected flows between their SYN and the end of the handshake.
pub fn flows(bpf_dir: &Path) -> Result<usize> {
    entries::<FlowKey, FlowOrigin>(bpf_dir, "FLOWS")
}

/// The table of such flows.
pub fn flow_table(bpf_dir: &Path) -> Result<HashMap<MapData, FlowKey, FlowOrigin>> {
    table(bpf_dir, "FLOWS")
}

/// Ages every permission to answer a peer, and the record of what this process's sockets have heard, to ten seconds
/// beyond the limit. Returns the number of permissions.
pub fn age_answers(bpf_dir: &Path, process: u32) -> Result<usize> {
    const AGE: u64 = ANSWER_NS + 10_000_000_000;
    let map = MapData::from_pin(abi(bpf_dir)?.join("maps/SOCKETS"))?;
    let mut states: SkStorage<_, SocketState> = Map::SkStorage(map).try_into()?;
    for socket in sockets_of(process)? {
        if let Ok(mut state) = states.get(&socket.as_raw_fd(), 0) {
            state.heard_at = state.heard_at.wrapping_sub(AGE);
            states.insert(&socket.as_raw_fd(), state, 0)?;
        }
    }
    let mut table = table::<PeerKey, u64>(bpf_dir, "PEERS")?;
    let keys: Vec<PeerKey> = table.keys().collect::<Result<_, _>>()?;
    for key in &keys {
        // The value is a sum that contains the time.
        let aged = table.get(key, 0)?.wrapping_sub(AGE);
        table.insert(key, aged, 0)?;
    }
    Ok(keys.len())
}

/// Descriptors of another process's sockets.
fn sockets_of(process: u32) -> Result<Vec<OwnedFd>> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let pidfd = pidfd_open(pid.context("a process id")?, PidfdFlags::empty())?;
    let mut sockets = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        let entry = entry?;
        let to = fs::read_link(entry.path()).unwrap_or_default();
        if to.to_string_lossy().starts_with("socket:") {
            let number = entry.file_name().to_string_lossy().parse()?;
            sockets.push(pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())?);
        }
    }
    Ok(sockets)
}

fn table<K: Pod, V: Pod>(bpf_dir: &Path, name: &str) -> Result<HashMap<MapData, K, V>> {
    let map = MapData::from_pin(abi(bpf_dir)?.join("maps").join(name))?;
    Ok(Map::HashMap(map).try_into()?)
}

/// The number of entries of a table.
fn entries<K: Pod, V: Pod>(bpf_dir: &Path, name: &str) -> Result<usize> {
    let mut count = 0;
    for key in table::<K, V>(bpf_dir, name)?.keys() {
        key?;
        count += 1;
    }
    Ok(count)
}

/// A pinned link and its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The pin's inode. Another inode means another link.
    pub pin: u64,
    /// The link's id in the kernel.
    pub link: u32,
    /// The program's id. A program that is loaded again has another id.
    pub program: u32,
    /// The hash of the program's instructions.
    pub tag: u64,
}

/// Every pinned link, by `CGROUP/PROGRAM`.
pub fn attached(bpf_dir: &Path) -> Result<BTreeMap<String, Attached>> {
    // A program that ends meanwhile gives an error, but does not belong to these pins.
    let tags: BTreeMap<u32, u64> = loaded_programs()
        .filter_map(|program| program.ok().map(|p| (p.id(), p.tag())))
        .collect();
    let mut all = BTreeMap::new();
    for cgroup in links(bpf_dir)? {
        for pin in folder(&cgroup)? {
            let link = FdLink::from(PinnedLink::from_pin(&pin)?).info()?;
            let program = link.program_id();
            let found = Attached {
                pin: fs::metadata(&pin)?.ino(),
                link: link.id(),
                program,
                tag: *tags.get(&program).context("a link without a program")?,
            };
            all.insert(format!("{}/{}", name(&cgroup), name(&pin)), found);
        }
    }
    Ok(all)
}

/// The folders of the pinned links, one for each cgroup. The name is the cgroup's id.
pub fn links(bpf_dir: &Path) -> Result<Vec<PathBuf>> {
    folder(&abi(bpf_dir)?.join("links"))
}

/// The folders of the pinned programs, one for each object file.
pub fn programs(bpf_dir: &Path) -> Result<Vec<PathBuf>> {
    folder(&abi(bpf_dir)?.join("programs"))
}

/// Removes the pin of a map, as if another process had. Programs that use the map go on using it.
pub fn forget_map(bpf_dir: &Path, name: &str) -> Result<()> {
    Ok(fs::remove_file(abi(bpf_dir)?.join("maps").join(name))?)
}

fn folder(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?)
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The folder with the ABI's number.
fn abi(bpf_dir: &Path) -> Result<PathBuf> {
    let mut all = folder(bpf_dir)?.into_iter();
    all.find(|path| name(path).starts_with("abi-"))
        .context("nothing is pinned")
}
