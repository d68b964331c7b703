//! The cgroup v2 hierarchy as this process sees it: its mount, the cgroup of this process, and the ids of
//! cgroups. Attaches nothing.

use crate::failure::Failure;
use egress_ebpf::ids::CgroupId;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `CGROUP2_SUPER_MAGIC` of include/uapi/linux/magic.h.
const MAGIC: i64 = 0x6367_7270;

/// A mount of the hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The part of the hierarchy that is mounted.
    root: PathBuf,
    /// The mount point.
    point: PathBuf,
}

/// Folder that cgroup v2 is mounted on.
pub fn mount_point() -> Result<PathBuf, Failure> {
    Ok(mount()?.point)
}

fn mount() -> Result<Mount, Failure> {
    let text = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| Failure::usage(format_args!("/proc/self/mountinfo: {e}")))?;
    choose(parse_mounts(&text)).ok_or_else(|| {
        Failure::usage("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")
    })
}

/// Prefers a mount of the whole hierarchy. A container can have two mounts: its own part and the whole.
fn choose(mounts: Vec<Mount>) -> Option<Mount> {
    let whole = mounts.iter().position(|m| m.root == Path::new("/"));
    mounts.into_iter().nth(whole.unwrap_or(0))
}

/// Joins the cgroup namespace of process 1, if that is another one and this process can open it. That is so
/// in a container that shares the node's process ids. A process cannot leave the part of the hierarchy that
/// its namespace shows (`cgroup_attach_permissions` in kernel/cgroup/cgroup.c), and the kernel shows paths
/// relative to that part. Call this before any other thread starts: it changes only the calling thread, and
/// new threads inherit its namespace.
pub fn join_first_namespace() -> Result<(), Failure> {
    let Ok(first) = fs::File::open("/proc/1/ns/cgroup") else {
        return Ok(());
    };
    let inode = |m: io::Result<fs::Metadata>| m.map(|m| m.ino());
    match (
        inode(first.metadata()),
        inode(fs::metadata("/proc/self/ns/cgroup")),
    ) {
        (Ok(first), Ok(own)) if first != own => {}
        _ => return Ok(()),
    }
    let kind = rustix::thread::LinkNameSpaceType::ControlGroup;
    rustix::thread::move_into_link_name_space(first.as_fd(), Some(kind)).map_err(|e| {
        Failure::privilege(format_args!(
            "joining the node's cgroup namespace: {e} (missing: CAP_SYS_ADMIN)"
        ))
    })
}

/// `proc_pid_mountinfo(5)`: field 4 is the root, 5 the mount point, the type follows `-`.
fn parse_mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            (back.split(' ').next()? == "cgroup2").then_some(())?;
            let mut fields = front.split(' ').skip(3);
            Some(Mount {
                root: unescape(fields.next()?),
                point: unescape(fields.next()?),
            })
        })
        .collect()
}

/// Decodes space, tab, newline and backslash, which the kernel writes as three octal digits (`mangle` in
/// `fs/proc_namespace.c`).
fn unescape(field: &str) -> PathBuf {
    let mut out = field.to_owned();
    for (code, plain) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        out = out.replace(code, plain);
    }
    out.into()
}

/// Folder of the cgroup that this process is in.
pub fn own() -> Result<PathBuf, Failure> {
    let text = fs::read_to_string("/proc/self/cgroup")
        .map_err(|e| Failure::usage(format_args!("/proc/self/cgroup: {e}")))?;
    own_in(&mount()?, &text).ok_or_else(|| {
        Failure::usage("the agent's own cgroup is outside the mounted cgroup v2 hierarchy: run the agent with the host's cgroup namespace and mount")
    })
}

fn own_in(mount: &Mount, proc_cgroup: &str) -> Option<PathBuf> {
    let path = proc_cgroup.lines().find_map(|l| l.strip_prefix("0::"))?;
    let below = Path::new(path).strip_prefix(&mount.root).ok()?;
    if below
        .components()
        .any(|c| c == std::path::Component::ParentDir)
    {
        return None;
    }
    Some(mount.point.components().chain(below.components()).collect())
}

/// The level of each cgroup: the hierarchy's root has level 0. A folder outside the mount has 0 too, so that it
/// is not taken for one that is too deep.
pub fn levels(folders: &[PathBuf]) -> Vec<usize> {
    let mount = mount().ok();
    let level = |folder| mount.as_ref().map_or(0, |mount| level_in(mount, folder));
    folders.iter().map(|folder| level(folder)).collect()
}

fn level_in(mount: &Mount, folder: &Path) -> usize {
    let names = |path: &Path| {
        let is_name = |c: &std::path::Component<'_>| matches!(c, std::path::Component::Normal(_));
        path.components().filter(is_name).count()
    };
    folder
        .strip_prefix(&mount.point)
        .map_or(0, |below| names(&mount.root) + names(below))
}

/// The path of a cgroup in the hierarchy, as `/proc/PID/cgroup` shows it to this process. `mount` is the
/// mount point of the hierarchy.
pub fn path_in(mount: &Path, folder: &Path) -> String {
    let below = folder.strip_prefix(mount).unwrap_or(folder);
    Path::new("/").join(below).to_string_lossy().into_owned()
}

/// The id of a cgroup, as `bpf_sk_cgroup_id` returns it: the inode of its folder.
pub fn id(folder: &Path) -> io::Result<CgroupId> {
    Ok(CgroupId(fs::metadata(folder)?.ino()))
}

/// Whether a process runs in a cgroup or below it; `None` for a folder that is no cgroup, or is gone.
pub fn populated(folder: &Path) -> Option<bool> {
    let events = fs::read_to_string(folder.join("cgroup.events")).ok()?;
    let value = events
        .lines()
        .find_map(|line| line.strip_prefix("populated "))?;
    Some(value == "1")
}

/// Whether a path is a folder of cgroup v2.
pub fn is_cgroup2(path: &Path) -> bool {
    #[expect(
        clippy::useless_conversion,
        reason = "f_type is narrower than i64 on some targets"
    )]
    let v2 = rustix::fs::statfs(path).is_ok_and(|stat| i64::from(stat.f_type) == MAGIC);
    v2 && path.is_dir()
}

/// Whether any of these folders belongs to another user than this process.
pub fn any_foreign(roots: &[PathBuf]) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let foreign = |root: &PathBuf| fs::metadata(root).is_ok_and(|meta| meta.uid() != own);
    roots.iter().any(foreign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_beside_version_1() {
        let text = "25 1 8:1 / / rw - ext4 /dev/sda rw\n\
                    30 25 0:26 / /sys/fs/cgroup/cpu rw shared:4 - cgroup cgroup rw,cpu\n\
                    31 25 0:27 /a\\040b /sys/fs/cgroup/uni\\134fied rw,relatime shared:5 - cgroup2 cgroup2 rw\n";
        let want = Mount {
            root: "/a b".into(),
            point: "/sys/fs/cgroup/uni\\fied".into(),
        };
        assert_eq!(parse_mounts(text), [want]);
    }

    #[test]
    fn the_mount_of_the_whole_hierarchy_is_taken_before_a_part() {
        let text = "31 25 0:27 /pods/a /sys/fs/cgroup ro - cgroup2 cgroup rw\n\
                    32 25 0:27 / /node/sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let point = |text| choose(parse_mounts(text)).unwrap().point;
        assert_eq!(point(text), Path::new("/node/sys/fs/cgroup"));
        let part = text.lines().next().unwrap();
        assert_eq!(point(part), Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn the_own_cgroup_is_a_folder_below_the_mount() {
        let whole = Mount {
            root: "/".into(),
            point: "/sys/fs/cgroup".into(),
        };
        let part = Mount {
            root: "/user".into(),
            point: "/cg".into(),
        };
        for (mount, text, want) in [
            (&whole, "1:name=systemd:/x\n0::/\n", Some("/sys/fs/cgroup")),
            (
                &whole,
                "0::/system.slice/a.service\n",
                Some("/sys/fs/cgroup/system.slice/a.service"),
            ),
            (&part, "0::/user/1\n", Some("/cg/1")),
            (&part, "0::/system\n", None),
            (&whole, "0::/../other\n", None),
            (&whole, "1:cpu:/\n", None),
        ] {
            assert_eq!(own_in(mount, text), want.map(PathBuf::from), "{text}");
        }
    }

    #[test]
    fn levels_are_counted_from_the_root_of_the_hierarchy() {
        let mount = |root: &str| Mount {
            root: root.into(),
            point: "/sys/fs/cgroup".into(),
        };
        for (root, folder, want) in [
            ("/", "/sys/fs/cgroup", 0),
            ("/", "/sys/fs/cgroup/a/b", 2),
            ("/pods/x", "/sys/fs/cgroup/a/b", 4),
            ("/", "/elsewhere/a/b", 0),
        ] {
            assert_eq!(level_in(&mount(root), Path::new(folder)), want, "{folder}");
        }
    }
}
