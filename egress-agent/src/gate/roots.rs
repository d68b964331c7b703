//! The enforced roots that the user named: their folders, which of them do not exist yet, and which
//! cannot be a root. Attaches nothing.

use super::pods;
use super::started::Started;
use crate::cgroup2::{self, is_cgroup2};
use crate::failure::Failure;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// How deep below the mount a pods' root is looked for: `kubelet.slice/kubelet-kubepods.slice`.
const PODS_DEPTH: usize = 3;

/// All enforced roots of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// The roots as absolute paths without symlinks. Some may not exist yet; those are closed when they
    /// are created.
    pub paths: Vec<PathBuf>,
    /// The error of the first path that cannot be an enforced root.
    pub wrong: Option<Failure>,
    /// Whether the kubelet uses only one of the paths. All of them are closed.
    pub alternatives: bool,
}

impl Roots {
    /// Checks the given paths. One wrong path does not leave the others open: the result has all usable
    /// roots and the first error.
    pub fn look(named: &[PathBuf]) -> Self {
        let mut roots = Self::default();
        let mut paths = named.to_vec();
        if let Some(at) = paths.iter().position(|path| path == Path::new(pods::AUTO)) {
            paths.remove(at);
            match cgroup2::mount_point() {
                Ok(mount) => {
                    let kubelet = fs::read_to_string(pods::KUBELET_CONFIG).ok();
                    let found = pods::places(&mount, &Started::now(), kubelet.as_deref());
                    roots.alternatives = found.len() > 1;
                    paths.extend(found);
                }
                Err(wrong) => roots.wrong = Some(wrong),
            }
        }
        for path in &paths {
            match look(path) {
                Ok(path) => roots.paths.push(path),
                Err(wrong) => roots.wrong = roots.wrong.or(Some(wrong)),
            }
        }
        roots.paths.sort();
        roots.paths.dedup();
        // The kernel accepts no second program below an exclusive attachment.
        let all = roots.paths.clone();
        roots.paths.retain(|inner| {
            let outer = all.iter().find(|o| *o != inner && inner.starts_with(o));
            if let Some(outer) = outer {
                let wrong = Failure::usage(format_args!(
                    "cgroup {} lies in cgroup {}: the outer one is enough",
                    inner.display(),
                    outer.display()
                ));
                roots.wrong = roots.wrong.take().or(Some(wrong));
            }
            outer.is_none()
        });
        roots
    }

    /// The roots that must exist and do not. Of alternatives one is enough.
    pub fn missing(&self) -> Vec<PathBuf> {
        let mut expected = self.expected();
        expected.retain(|root| !root.exists());
        expected
    }

    /// The roots that must be closed: of alternatives those that exist, unless none does.
    pub fn expected(&self) -> Vec<PathBuf> {
        let there: Vec<PathBuf> = self.paths.iter().filter(|r| r.exists()).cloned().collect();
        if self.alternatives && !there.is_empty() {
            return there;
        }
        self.paths.clone()
    }

    /// Creates the folders of missing roots.
    pub fn create(&self) -> Result<(), Failure> {
        // The kubelet has chosen one.
        if self.alternatives && self.paths.iter().any(|root| populated(root)) {
            return Ok(());
        }
        for root in &self.paths {
            fs::create_dir_all(root).map_err(|e| {
                Failure::usage(format_args!("creating cgroup {}: {e}", root.display()))
            })?;
        }
        Ok(())
    }
}

fn look(path: &Path) -> Result<PathBuf, Failure> {
    match fs::canonicalize(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            awaited(path).ok_or_else(|| missing(path, &e))
        }
        _ => enforced_root(path),
    }
}

/// One existing enforced root: absolute, without symlinks, a folder of cgroup v2 that is not the
/// hierarchy's own root.
pub fn enforced_root(path: &Path) -> Result<PathBuf, Failure> {
    let shown = path.display();
    let real = fs::canonicalize(path).map_err(|e| missing(path, &e))?;
    if !is_cgroup2(&real) {
        let hint = cgroup2::mount_point().map_or_else(
            |f| f.message,
            |m| format!("it is mounted on {}", m.display()),
        );
        return Err(Failure::usage(format_args!(
            "cgroup {shown} is not a folder of cgroup v2; {hint}{}",
            pods_hint()
        )));
    }
    // Every cgroup but the hierarchy's root has this file (CFTYPE_NOT_ON_ROOT in
    // kernel/cgroup/cgroup.c).
    if !real.join("cgroup.type").exists() {
        return Err(Failure::usage(format_args!(
            "cgroup {shown} is the root of the hierarchy: programs there would cut off the machine itself; name a cgroup below it{}",
            pods_hint()
        )));
    }
    Ok(real)
}

fn missing(path: &Path, error: &io::Error) -> Failure {
    // The error does not suggest creating the folder: a new folder does not contain the workloads.
    Failure::usage(format_args!(
        "cgroup {}: {error}; name the cgroup that the workloads run in{}",
        path.display(),
        pods_hint()
    ))
}

fn pods_hint() -> String {
    let found = cgroup2::mount_point().ok().and_then(|m| pods_root(&m));
    found.map_or_else(String::new, |root| {
        format!(" (pods run below {})", root.display())
    })
}

/// The path of a missing root, without symlinks, if creating it would make a cgroup of version 2.
fn awaited(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let (there, real) = path
        .ancestors()
        .skip(1)
        .find_map(|a| Some((a, fs::canonicalize(a).ok()?)))?;
    let rest = path.strip_prefix(there).ok()?;
    let plain = rest.components().all(|c| matches!(c, Component::Normal(_)));
    (plain && is_cgroup2(&real)).then(|| real.join(rest))
}

/// The cgroup in which the kubelet creates pods. It is known by its name: `kubepods`, `kubepods.slice`,
/// or `kubelet-kubepods.slice` below another root. Of several, this is one in which processes run.
pub fn pods_root(mount: &Path) -> Option<PathBuf> {
    let mut found = Vec::new();
    search(mount, PODS_DEPTH, &mut found);
    let busy = found.iter().position(|root| populated(root));
    (!found.is_empty()).then(|| found.swap_remove(busy.unwrap_or(0)))
}

fn search(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == "kubepods" || name.ends_with("kubepods.slice") {
            found.push(entry.path());
        } else if depth > 1 {
            search(&entry.path(), depth - 1, found);
        }
    }
}

/// Whether a process runs in a cgroup or below it.
pub fn populated(root: &Path) -> bool {
    cgroup2::populated(root) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_cgroup_is_refused_without_a_hint_to_make_it() {
        let missing = Roots::look(&["/nonexistent/cg".into()]).wrong.unwrap();
        assert!(missing.message.contains("/nonexistent/cg"), "{missing}");
        assert!(!missing.message.contains("mkdir"), "{missing}");
        let plain = tempfile::tempdir().unwrap();
        let wrong = enforced_root(plain.path()).unwrap_err();
        assert!(
            wrong.message.contains("not a folder of cgroup v2"),
            "{wrong}"
        );
    }

    #[test]
    fn the_root_of_the_hierarchy_is_no_enforced_root() {
        let mount = cgroup2::mount_point().unwrap();
        let roots = Roots::look(std::slice::from_ref(&mount));
        assert!(roots.paths.is_empty());
        let wrong = roots.wrong.unwrap();
        assert!(wrong.message.contains("root of the hierarchy"), "{wrong}");
    }

    #[test]
    fn a_mistake_leaves_the_other_roots_and_an_absent_one_is_awaited() {
        let mount = cgroup2::mount_point().unwrap();
        let absent = mount.join("egress-absent/inner");
        let inner = absent.join("pod");
        let roots = Roots::look(&["/nonexistent/cg".into(), absent.clone(), inner]);
        assert_eq!(roots.paths, [absent]);
        let wrong = roots.wrong.unwrap();
        assert!(wrong.message.contains("/nonexistent/cg"), "{wrong}");
    }

    #[test]
    fn a_pods_root_is_known_by_its_name() {
        for (made, want) in [
            (
                "kubepods.slice/kubepods-burstable.slice",
                Some("kubepods.slice"),
            ),
            ("kubepods/burstable", Some("kubepods")),
            (
                "kubelet.slice/kubelet-kubepods.slice",
                Some("kubelet.slice/kubelet-kubepods.slice"),
            ),
            ("system.slice/kubelet.service", None),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join(made)).unwrap();
            let want = want.map(|w| dir.path().join(w));
            assert_eq!(pods_root(dir.path()), want, "{made}");
        }
    }
}
