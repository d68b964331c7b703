//! What `boot-unit` writes to a node and removes from it: the program, the unit, and the links by which systemd starts
//! the unit before the kubelet.

use super::program::{has, is_linked, write};
use crate::failure::Failure;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

/// The unit.
const UNIT: &str = include_str!("../../../../deploy/systemd/egress-gate-kubelet.service");
/// Its name.
const NAME: &str = "egress-gate-kubelet.service";
/// Where administrators put units (systemd.unit(5)).
const UNITS: &str = "etc/systemd/system";
/// The folder of the program that the unit names.
const PROGRAMS: &str = "/usr/local/bin";
/// The unit that runs the kubelet, as the unit names it.
const KUBELET: &str = "kubelet.service";
/// The program's mode.
const MODE: u32 = 0o755;
/// The program's name.
const PROGRAM: &str = "egress-agent";

/// Where it is done.
#[derive(Debug, clap::Args)]
pub struct Paths {
    /// Where the node's root is mounted
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub root: PathBuf,
    /// Folder of the program on the node
    #[arg(long, value_name = "PATH", default_value = PROGRAMS)]
    pub directory: PathBuf,
    /// Unit that runs the kubelet
    #[arg(long, value_name = "UNIT", default_value = KUBELET)]
    pub before: Vec<String>,
}

impl Paths {
    fn units(&self) -> PathBuf {
        self.root.join(UNITS)
    }

    /// A path of the node as seen from here.
    fn seen(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The program as seen from here.
    pub fn program(&self) -> PathBuf {
        self.seen(&self.directory.join(PROGRAM))
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

/// Installs this program (`own`) and the unit.
pub fn install(paths: &Paths, own: &Path) -> Result<String, Failure> {
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
    let mut changed = write(&program, &bytes, MODE).map_err(|e| named(&program, &e))?;
    let unit = units.join(NAME);
    changed |= write(&unit, paths.unit().as_bytes(), 0o644).map_err(|e| named(&unit, &e))?;
    let links = paths.links();
    for link in &links {
        changed |= enable(link).map_err(|e| named(link, &e))?;
    }
    for link in every_link(&units)? {
        if !links.contains(&link) {
            fs::remove_file(&link).map_err(|e| named(&link, &e))?;
            changed = true;
        }
    }
    Ok(format!(
        "{NAME} is {}enabled: from the next boot on it closes the gate before {}",
        if changed { "" } else { "already " },
        paths.before.join(", ")
    ))
}

/// Whether another program is where [`install`] puts this one (`own`). A missing one was removed on purpose.
pub fn has_other_program(paths: &Paths, own: &Path) -> Result<bool, Failure> {
    let program = paths.program();
    if !program.exists() {
        return Ok(false);
    }
    let bytes = fs::read(own).map_err(|e| named(own, &e))?;
    Ok(!has(&program, &bytes, MODE))
}

/// Removes what [`install`] made, also with other flags.
pub fn remove(paths: &Paths) -> Result<String, Failure> {
    let unit = paths.units().join(NAME);
    let text = fs::read_to_string(&unit).unwrap_or_default();
    let named_there = program_of(&text).map(|program| paths.seen(program));
    let program = named_there.unwrap_or_else(|| paths.program());
    let folder_is_seen = program.parent().is_some_and(Path::is_dir);
    // The links first: a unit with a link to a missing one does not start. The unit last: it tells a second try where
    // the program is.
    let files = every_link(&paths.units())?.into_iter();
    for file in files.chain([program.clone(), unit]) {
        match fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(named(&file, &e)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(if folder_is_seen || text.is_empty() {
        format!("{NAME} is removed")
    } else {
        let shown = program.display();
        format!("{NAME} is removed; its program stays, because {shown} is not mounted here")
    })
}

fn named(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format_args!("{}: {error}", path.display()))
}

/// The links to the unit, of every unit that does not start without it.
fn every_link(units: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match fs::read_dir(units) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| named(units, &e))?,
    };
    let mut links = Vec::new();
    for entry in entries {
        let folder = entry.map_err(|e| named(units, &e))?.path();
        let link = folder.join(NAME);
        let requires = folder.extension().is_some_and(|e| e == "requires");
        if requires && fs::symlink_metadata(&link).is_ok() {
            links.push(link);
        }
    }
    Ok(links)
}

/// The program that a unit runs. `None` if it is not this one, or has no plain path.
fn program_of(unit: &str) -> Option<&Path> {
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))?;
    let path = Path::new(start.split_whitespace().next()?);
    let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    let is_own = path.file_name().is_some_and(|name| name == PROGRAM);
    (path.is_absolute() && is_own && path.components().all(plain)).then_some(path)
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

/// A file with a program's header and segments of these types.
#[cfg(test)]
pub fn program_for_tests(root: &Path, segments: &[u32]) -> PathBuf {
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
        };
        fs::create_dir_all(paths.program().parent().unwrap()).unwrap();
        (root, paths)
    }

    #[test]
    fn what_is_installed_is_removed_and_a_second_time_nothing_changes() {
        let (root, paths) = node(&["k3s.service", "k3s-agent.service"], "/opt/bin");
        let own = program_for_tests(root.path(), &[1, 2]);
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
    fn what_was_installed_with_other_flags_is_removed() {
        let (root, paths) = node(&["k3s.service", "k3s-agent.service"], "/opt/bin");
        let own = program_for_tests(root.path(), &[1]);
        install(&paths, &own).unwrap();
        let other = Paths {
            root: root.path().to_owned(),
            directory: PROGRAMS.into(),
            before: vec![KUBELET.to_owned()],
        };
        // Of another unit, which stays.
        let foreign = paths.units().join("k3s.service.requires/other.service");
        symlink("../other.service", &foreign).unwrap();
        assert_eq!(remove(&other).unwrap(), format!("{NAME} is removed"));
        assert!(!paths.program().exists() && !paths.units().join(NAME).exists());
        for link in paths.links() {
            assert!(fs::symlink_metadata(&link).is_err(), "{link:?}");
        }
        assert!(fs::symlink_metadata(&foreign).is_ok());
    }

    #[test]
    fn a_unit_that_runs_no_kubelet_any_more_does_not_need_the_gate() {
        let (root, paths) = node(&[KUBELET], PROGRAMS);
        let own = program_for_tests(root.path(), &[1]);
        install(&paths, &own).unwrap();
        let k3s = Paths {
            before: vec!["k3s.service".to_owned()],
            ..paths
        };
        let said = install(&k3s, &own).unwrap();
        assert!(said.contains("is enabled"), "{said}");
        let former = k3s.units().join(format!("{KUBELET}.requires")).join(NAME);
        assert!(fs::symlink_metadata(former).is_err());
        assert!(k3s.links().iter().all(|link| link.exists()));
    }

    #[test]
    fn the_unit_is_the_shipped_one_with_the_default_paths() {
        let (_root, paths) = node(&[KUBELET], PROGRAMS);
        assert_eq!(paths.unit(), UNIT);
    }

    #[test]
    fn what_would_keep_the_kubelet_from_starting_is_not_installed() {
        let (root, paths) = node(&[KUBELET], PROGRAMS);
        let linked = program_for_tests(root.path(), &[1, 3]);
        let refused = install(&paths, &linked).unwrap_err();
        assert!(refused.message.contains("shared libraries"), "{refused}");
        let own = program_for_tests(root.path(), &[1]);
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

    #[test]
    fn only_a_program_of_this_name_with_a_plain_path_is_removed() {
        let of = |start: &str| {
            program_of(&format!("[Service]\nExecStart={start}\n")).map(Path::to_owned)
        };
        assert_eq!(
            of("/opt/bin/egress-agent close"),
            Some("/opt/bin/egress-agent".into())
        );
        for other in [
            "/bin/sh -c egress-agent",
            "egress-agent close",
            "/opt/../egress-agent",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(program_of(UNIT), Some(&*Path::new(PROGRAMS).join(PROGRAM)));
    }
}
