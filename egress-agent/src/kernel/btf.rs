//! The offsets of a few fields in the kernel's structures, from its type information (BTF).
//!
//! Reads the parts of the format (Documentation/bpf/btf.rst) that this needs: structures, unions,
//! enums, and the types between a member and its structure. Does not know what the programs read
//! there.

use egress_ebpf::layout::Layout;
use std::collections::HashMap;

/// The file with the kernel's types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// Bit of `SOCK_BINDADDR_LOCK` (4, include/net/sock.h) in `sk_userlocks`.
const BINDADDR_LOCK_BIT: u32 = 2;

/// Kinds of types (`BTF_KIND_*`).
mod kind {
    pub const INT: u32 = 1;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// The file with the kernel's lockdown mode (kernel_lockdown(7)).
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// The layout of the running kernel, or the gap that stays open without it.
pub fn layout() -> Result<Layout, String> {
    // In this mode the kernel loads no program that reads kernel memory.
    let locked = std::fs::read_to_string(LOCKDOWN).is_ok_and(|s| s.contains("[confidentiality]"));
    let found = if locked {
        Err("kernel lockdown is at confidentiality".to_owned())
    } else {
        places()
    };
    found.map_err(|why| {
        format!(
            "subnet broadcast addresses in listed networks, foreign IPv6 source addresses where net.ipv6.ip_nonlocal_bind is set, neighbour discovery by raw sockets from before the gate, and answers later than 120 s to a datagram that is read with MSG_PEEK: {why}; keep that sysctl at 0 and list no network that holds a subnet's broadcast address"
        )
    })
}

fn places() -> Result<Layout, String> {
    let bytes = std::fs::read(VMLINUX).map_err(|e| format!("reading {VMLINUX}: {e}"))?;
    let types = Types::parse(&bytes).ok_or_else(|| format!("{VMLINUX}: cannot parse it"))?;
    let byte = |path: &[&str]| {
        let bit = types.bit(path).filter(|bit| bit % 8 == 0);
        bit.map(|bit| bit / 8)
            .ok_or_else(|| format!("the kernel's types have no {}", path.join(".")))
    };
    let flag = |field: &str, number: &str| {
        // Before Linux 6.6 each flag is a bit field of its own, later a bit of one word.
        let own = types.bit(&["inet_sock", field]);
        let of_word = || Some(types.bit(&["inet_sock", "inet_flags"])? + types.number(number)?);
        own.or_else(of_word)
            .ok_or_else(|| format!("the kernel's types have no inet_sock.{field}"))
    };
    let userlocks = types
        .bit(&["sock", "sk_userlocks"])
        .ok_or("the kernel's types have no sock.sk_userlocks")?;
    // Programs read a queue's head as three words (include/linux/skbuff.h).
    let head = |field| types.bit(&["sk_buff_head", field]);
    if (head("next"), head("qlen")) != (Some(0), Some(128)) {
        return Err("the kernel's sk_buff_head has another layout".to_owned());
    }
    Ok(Layout {
        skb_dst: byte(&["sk_buff", "_skb_refdst"])?,
        route_flags: byte(&["rtable", "rt_flags"])?,
        sock_net: byte(&["sock", "__sk_common", "skc_net"])?,
        nonlocal_bind6: byte(&["net", "ipv6", "sysctl", "ip_nonlocal_bind"])?,
        freebind: flag("freebind", "INET_FLAGS_FREEBIND")?,
        transparent: flag("transparent", "INET_FLAGS_TRANSPARENT")?,
        bound: userlocks + BINDADDR_LOCK_BIT,
        of_kernel: types
            .bit(&["sock", "sk_kern_sock"])
            .ok_or("the kernel's types have no sock.sk_kern_sock")?,
        receive_queue: byte(&["sock", "sk_receive_queue"])?,
        reader_queue: byte(&["udp_sock", "reader_queue"])?,
        known: 1,
    })
}

/// A structure or union: its members, each with its bit and type.
type Members<'a> = Vec<(&'a [u8], u32, usize)>;

#[derive(Default)]
struct Types<'a> {
    /// By type id: the type that a name or qualifier stands for; for other types the id itself.
    behind: Vec<usize>,
    members: HashMap<usize, Members<'a>>,
    structures: HashMap<&'a [u8], usize>,
    numbers: HashMap<&'a [u8], u32>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let at = |offset| word(bytes, offset).map(|w| w as usize);
        let header = at(4)?;
        let section = |offset, length| bytes.get(header + at(offset)?..)?.get(..at(length)?);
        let (types, strings) = (section(8, 12)?, section(16, 20)?);
        // Type 0 is void.
        let mut all = Self {
            behind: vec![0],
            ..Self::default()
        };
        let mut rest = types;
        while !rest.is_empty() {
            let used = all.one(rest, strings)?;
            rest = rest.get(used..)?;
        }
        Some(all)
    }

    /// Reads the first type of `bytes`. Returns its length.
    fn one(&mut self, bytes: &[u8], strings: &'a [u8]) -> Option<usize> {
        const FIXED: usize = 12;
        let (info, size) = (word(bytes, 4)?, word(bytes, 8)?);
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        let has_bitfields = info >> 31 != 0;
        let id = self.behind.len();
        let name = |offset: u32| {
            let text = strings.get(offset as usize..)?;
            text.split(|b| *b == 0).next()
        };
        let is_alias = matches!(
            kind,
            kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG
        );
        self.behind.push(if is_alias { size as usize } else { id });
        let each = match kind {
            kind::STRUCT | kind::UNION => {
                let mut members = Vec::with_capacity(count);
                for at in (0..count).map(|n| FIXED + n * 12) {
                    let offset = word(bytes, at + 8)?;
                    let bit = if has_bitfields {
                        offset & 0xff_ffff
                    } else {
                        offset
                    };
                    members.push((name(word(bytes, at)?)?, bit, word(bytes, at + 4)? as usize));
                }
                self.members.insert(id, members);
                self.structures.entry(name(word(bytes, 0)?)?).or_insert(id);
                count * 12
            }
            kind::ENUM => {
                for at in (0..count).map(|n| FIXED + n * 8) {
                    let number = word(bytes, at + 4)?;
                    self.numbers.insert(name(word(bytes, at)?)?, number);
                }
                count * 8
            }
            kind::FUNC_PROTO => count * 8,
            kind::DATASEC | kind::ENUM64 => count * 12,
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            _ => 0,
        };
        Some(FIXED + each)
    }

    /// The offset of a field in bits from the start of its structure. `path` is the structure's name and
    /// then the members down to the field. Members of unnamed members count too.
    fn bit(&self, path: &[&str]) -> Option<u32> {
        let (structure, fields) = path.split_first()?;
        let mut id = *self.structures.get(structure.as_bytes())?;
        let mut bit = 0;
        for field in fields {
            let (at, of) = self.member(id, field.as_bytes())?;
            bit += at;
            id = of;
        }
        Some(bit)
    }

    fn member(&self, id: usize, field: &[u8]) -> Option<(u32, usize)> {
        self.members.get(&id)?.iter().find_map(|(name, bit, of)| {
            let of = self.resolved(*of)?;
            if *name == field {
                return Some((*bit, of));
            }
            let (inner, of) = name.is_empty().then(|| self.member(of, field))??;
            Some((bit + inner, of))
        })
    }

    /// The type that names and qualifiers stand for.
    fn resolved(&self, mut id: usize) -> Option<usize> {
        // The bound ends a loop in malformed data. Real chains are much shorter.
        for _ in 0..32 {
            let next = *self.behind.get(id)?;
            if next == id {
                return Some(id);
            }
            id = next;
        }
        None
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name.as_bytes()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::{Types, layout};

    #[test]
    fn the_running_kernel_has_every_field() {
        let layout = layout().unwrap();
        assert_eq!(layout.known, 1);
        for place in [
            layout.skb_dst,
            layout.route_flags,
            layout.sock_net,
            layout.nonlocal_bind6,
            layout.freebind / 8,
            layout.transparent / 8,
            layout.bound / 8,
            layout.of_kernel / 8,
            layout.receive_queue,
            layout.reader_queue,
        ] {
            assert!((1..8192).contains(&place), "{layout:?}");
        }
    }

    #[test]
    fn what_is_no_type_information_is_not_understood() {
        let good = std::fs::read(super::VMLINUX).unwrap();
        assert!(Types::parse(&[]).is_none());
        assert!(Types::parse(&[0; 64]).is_none());
        assert!(Types::parse(&good[..good.len() / 2]).is_none());
        let mut long = good[..4096].to_vec();
        long[12..16].copy_from_slice(&4000_u32.to_ne_bytes());
        long[20..24].copy_from_slice(&0_u32.to_ne_bytes());
        assert!(Types::parse(&long).is_none());
    }
}
