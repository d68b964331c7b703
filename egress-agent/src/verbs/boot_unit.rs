//! `egress-agent boot-unit`: copies this program and the unit that closes the gate before the kubelet to a node, and
//! enables the unit. For a container that has the node's folders mounted: it starts nothing, and systemd reads the
//! unit at the next boot.

use super::args::AdminArgs;
use super::quiet;
use crate::failure::Failure;
use crate::operate::client;
use clap::Subcommand;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The unit.
const UNIT: &str = include_str!("../../../deploy/systemd/egress-gate-kubelet.service");
/// Its name.
const NAME: &str = "egress-gate-kubelet.service";
/// Where administrators put units (systemd.unit(5)).
const UNITS: &str = "etc/systemd/system";
/// The folder of the program that the unit names.
const PROGRAMS: &str = "/usr/local/bin";
/// The unit that runs the kubelet, as the unit names it.
const KUBELET: &str = "kubelet.service";
/// As long as an agent may need to get a gate that it can close.
const FOREVER: Duration = Duration::from_hours(8760);
/// The program's name.
const PROGRAM: &str = "egress-agent";

/// Arguments of `boot-unit`.
#[derive(Debug, clap::Args)]
pub struct BootUnitArgs {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Install the program and the unit, and enable the unit. Files that are the same stay untouched
    Install(Paths),
    /// Remove what `install` made
    Remove(Paths),
}

#[derive(Debug, clap::Args)]
struct Paths {
    /// Where the node's root is mounted
    #[arg(long, value_name = "PATH", default_value = "/")]
    root: PathBuf,
    /// Folder of the program on the node
    #[arg(long, value_name = "PATH", default_value = PROGRAMS)]
    directory: PathBuf,
    /// Unit that runs the kubelet
    #[arg(long, value_name = "UNIT", default_value = KUBELET)]
    before: Vec<String>,
    /// For a container beside the agent: wait until the agent has proven the gate closed on this node, and stay
    /// afterwards. A node where that fails must not get a unit without which its kubelet does not start
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The verb.
pub fn run(args: &BootUnitArgs) -> anyhow::Result<()> {
    let (Act::Install(paths) | Act::Remove(paths)) = &args.act;
    if paths.stay {
        client::wait(&paths.admin.clone().socket()?, FOREVER, true)?;
    }
    let said = match &args.act {
        Act::Install(paths) => install(paths, Path::new("/proc/self/exe"))?,
        Act::Remove(paths) => remove(paths)?,
    };
    writeln!(quiet::stdout(), "{said}")?;
    if !paths.stay {
        return Ok(());
    }
    loop {
        thread::park();
    }
}

impl Paths {
    fn units(&self) -> PathBuf {
        self.root.join(UNITS)
    }

    /// The program as seen from here.
    fn program(&self) -> PathBuf {
        let below = self.directory.strip_prefix("/").unwrap_or(&self.directory);
        self.root.join(below).join(PROGRAM)
    }

    /// The links by which systemd starts the unit before the kubelet (`systemctl enable` with `RequiredBy=`).
    fn links(&self) -> Vec<PathBuf> {
        let requires = |unit: &String| self.units().join(format!("{unit}.requires")).join(NAME);
        self.before.iter().map(requires).collect()
    }

    /// The unit with these paths.
    fn unit(&self) -> String {
        let before = self.before.join(" ");
        let folder = self.directory.display().to_string();
        UNIT.replace(PROGRAMS, &folder)
            .replace(&format!("Before={KUBELET}"), &format!("Before={before}"))
            .replace(
                &format!("RequiredBy={KUBELET}"),
                &format!("RequiredBy={before}"),
            )
    }
}

fn install(paths: &Paths, own: &Path) -> Result<String, Failure> {
    let named =
        |path: &Path, e: &io::Error| Failure::usage(format_args!("{}: {e}", path.display()));
    for unit in &paths.before {
        let plain = unit
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.@:".contains(&b));
        if !plain || !unit.ends_with(".service") {
            return Err(Failure::usage(format_args!(
                "--before {unit}: want a unit such as kubelet.service"
            )));
        }
    }
    if is_linked(own).map_err(|e| named(own, &e))? {
        return Err(Failure::usage(
            "this program needs shared libraries, which the node may not have; install a static build (`cargo xtask release`)",
        ));
    }
    let units = paths.units();
    if !units.is_dir() {
        return Err(Failure::usage(format_args!(
            "{} is not a folder: the node does not use systemd, or its root is not mounted there",
            units.display()
        )));
    }
    let program = paths.program();
    let bytes = fs::read(own).map_err(|e| named(own, &e))?;
    // The unit last: it must not name a program that is not there.
    let mut changed = write(&program, &bytes, 0o755).map_err(|e| named(&program, &e))?;
    let unit = units.join(NAME);
    changed |= write(&unit, paths.unit().as_bytes(), 0o644).map_err(|e| named(&unit, &e))?;
    for link in paths.links() {
        changed |= enable(&link).map_err(|e| named(&link, &e))?;
    }
    Ok(format!(
        "{NAME} is {}enabled: from the next boot on it closes the gate before {}",
        if changed { "" } else { "already " },
        paths.before.join(", ")
    ))
}

fn remove(paths: &Paths) -> Result<String, Failure> {
    // The links first: without them, nothing needs the rest.
    let mut files = paths.links();
    files.extend([paths.units().join(NAME), paths.program()]);
    for file in files {
        match fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::usage(format_args!("{}: {e}", file.display())));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(format!("{NAME} is removed"))
}

/// Whether a program needs a loader: it has the segment `PT_INTERP` (elf(5)).
fn is_linked(program: &Path) -> io::Result<bool> {
    const PT_INTERP: [u8; 4] = 3_u32.to_ne_bytes();
    let file = File::open(program)?;
    let number = |at: u64| -> io::Result<u64> {
        let mut bytes = [0; 2];
        file.read_exact_at(&mut bytes, at)?;
        Ok(u16::from_ne_bytes(bytes).into())
    };
    // `e_phoff`, `e_phentsize` and `e_phnum` of the 64-bit header.
    let mut offset = [0; 8];
    file.read_exact_at(&mut offset, 32)?;
    let (size, count) = (number(54)?, number(56)?);
    for segment in 0..count {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, u64::from_ne_bytes(offset) + segment * size)?;
        if kind == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Replaces a file as a whole, unless it has this content and mode. Returns whether it did.
fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    if let Ok(mut file) = File::open(path) {
        let meta = file.metadata()?;
        let mut there = Vec::new();
        if meta.len() == bytes.len() as u64 && meta.permissions().mode() & 0o777 == mode {
            file.read_to_end(&mut there)?;
        }
        if there == bytes {
            return Ok(false);
        }
    }
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    // A node that loses power now must not boot with an empty program.
    file.sync_all()?;
    drop(file);
    fs::rename(&new, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(true)
}

/// Makes the link that `systemctl enable` makes. Returns whether it was missing.
fn enable(link: &Path) -> io::Result<bool> {
    let target = Path::new("..").join(NAME);
    if fs::read_link(link).is_ok_and(|there| there.file_name() == target.file_name()) {
        return Ok(false);
    }
    if let Some(folder) = link.parent() {
        fs::create_dir_all(folder)?;
    }
    symlink(target, link)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(before: &[&str], directory: &str) -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(UNITS)).unwrap();
        let paths = Paths {
            root: root.path().to_owned(),
            directory: directory.into(),
            before: before.iter().map(|unit| (*unit).to_owned()).collect(),
            stay: false,
            admin: AdminArgs::default(),
        };
        fs::create_dir_all(paths.program().parent().unwrap()).unwrap();
        (root, paths)
    }

    /// A file with a program's header and segments of these types.
    fn program(root: &Path, segments: &[u32]) -> PathBuf {
        let mut bytes = vec![0; 64];
        bytes[32..40].copy_from_slice(&64_u64.to_ne_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_ne_bytes());
        let count = u16::try_from(segments.len()).unwrap();
        bytes[56..58].copy_from_slice(&count.to_ne_bytes());
        for kind in segments {
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 52]);
        }
        let path = root.join("program");
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn what_is_installed_is_removed_and_a_second_time_nothing_changes() {
        let (root, paths) = node(&["k3s.service", "k3s-agent.service"], "/opt/bin");
        let own = program(root.path(), &[1, 2]);
        let said = install(&paths, &own).unwrap();
        assert!(said.contains("is enabled"), "{said}");
        let unit = fs::read_to_string(paths.units().join(NAME)).unwrap();
        for line in [
            "\nBefore=k3s.service k3s-agent.service\n",
            "\nRequiredBy=k3s.service k3s-agent.service\n",
            "\nExecStart=/opt/bin/egress-agent close --create --cgroup auto\n",
            "\nRequiresMountsFor=/sys/fs/bpf /opt/bin\n",
        ] {
            assert!(unit.contains(line), "{line}{unit}");
        }
        let links = paths.links();
        assert_eq!(links.len(), 2);
        for link in &links {
            assert_eq!(fs::read_to_string(link).unwrap(), unit, "{link:?}");
        }
        assert_eq!(fs::read(paths.program()).unwrap(), fs::read(&own).unwrap());
        let made = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        let before = made(&paths.program());
        let said = install(&paths, &own).unwrap();
        assert!(said.contains("already enabled"), "{said}");
        assert_eq!(made(&paths.program()), before);
        remove(&paths).unwrap();
        remove(&paths).unwrap();
        assert!(!paths.program().exists() && !paths.units().join(NAME).exists());
        assert!(links.iter().all(|link| fs::symlink_metadata(link).is_err()));
    }

    #[test]
    fn the_unit_is_the_shipped_one_with_the_default_paths() {
        let (_root, paths) = node(&[KUBELET], PROGRAMS);
        assert_eq!(paths.unit(), UNIT);
    }

    #[test]
    fn what_would_keep_the_kubelet_from_starting_is_not_installed() {
        let (root, paths) = node(&[KUBELET], PROGRAMS);
        let linked = program(root.path(), &[1, 3]);
        let refused = install(&paths, &linked).unwrap_err();
        assert!(refused.message.contains("shared libraries"), "{refused}");
        let own = program(root.path(), &[1]);
        let (_root, other) = node(&["kubelet.service\nExecStart=/x"], PROGRAMS);
        assert!(
            install(&other, &own)
                .unwrap_err()
                .message
                .contains("--before")
        );
        fs::remove_dir(paths.units()).unwrap();
        let refused = install(&paths, &own).unwrap_err();
        assert!(refused.message.contains("systemd"), "{refused}");
        assert!(!paths.program().exists());
        // The tests' own program is linked.
        assert!(is_linked(Path::new("/proc/self/exe")).unwrap());
    }
}
