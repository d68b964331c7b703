//! The agent's own cgroup: outside every enforced root and above none. Attaches nothing.

use super::roots::enforced_root;
use crate::cgroup2;
use crate::config::Config;
use crate::failure::Failure;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The name of a cgroup that the agent makes for itself.
const NAME: &str = "egress-agent";

/// Moves this process into the agent's own cgroup and returns its folder. That cgroup is not inside an
/// enforced root, because the agent's upstream connects would be redirected to the agent itself. It is
/// not above one, because the programs of the agent's cgroup would see the workloads. The config can name it. If it
/// does not and the agent is a pod whose root it found itself, it is `egress-agent` at the top of the hierarchy.
pub fn settle(config: &Config, roots: &[PathBuf]) -> Result<PathBuf, Failure> {
    let (here, wanted) = find(config, roots)?;
    if wanted != here {
        match fs::create_dir(&wanted) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Failure::usage(format_args!(
                    "agent cgroup {}: {e}",
                    wanted.display()
                )));
            }
            Ok(()) | Err(_) => {}
        }
        enforced_root(&wanted)?;
        fs::write(wanted.join("cgroup.procs"), std::process::id().to_string()).map_err(|e| {
            Failure::usage(format_args!(
                "agent cgroup {}: moving there: {e}",
                wanted.display()
            ))
        })?;
    }
    Ok(wanted)
}

/// Fails if [`settle`] would find no cgroup for the agent. Does not move: where the process was started tells where the
/// pods are.
pub fn check(config: &Config, roots: &[PathBuf]) -> Result<(), Failure> {
    let (here, wanted) = find(config, roots)?;
    let may_be_created = || wanted.parent().is_some_and(cgroup2::is_cgroup2);
    if wanted != here && (wanted.exists() || !may_be_created()) {
        enforced_root(&wanted)?;
    }
    Ok(())
}

/// The cgroup of this process and the one that the agent wants.
fn find(config: &Config, roots: &[PathBuf]) -> Result<(PathBuf, PathBuf), Failure> {
    let here = cgroup2::own()?;
    let mut chosen = config.agent_cgroup.as_deref().map(real_path).transpose()?;
    if chosen.is_none() && config.finds_pods() && roots.iter().any(|root| here.starts_with(root)) {
        chosen = Some(cgroup2::mount_point()?.join(NAME));
    }
    let wanted = plan(&here, chosen.as_deref(), roots)?;
    Ok((here, wanted))
}

/// A path without symlinks. Its last part need not exist yet.
fn real_path(path: &Path) -> Result<PathBuf, Failure> {
    let named = |e: io::Error| Failure::usage(format_args!("agent cgroup {}: {e}", path.display()));
    match (fs::canonicalize(path), path.parent(), path.file_name()) {
        (Ok(real), _, _) => Ok(real),
        (Err(_), Some(parent), Some(name)) => {
            Ok(fs::canonicalize(parent).map_err(named)?.join(name))
        }
        (Err(e), _, _) => Err(named(e)),
    }
}

fn plan(here: &Path, chosen: Option<&Path>, roots: &[PathBuf]) -> Result<PathBuf, Failure> {
    let wanted = match chosen {
        Some(path) => path.to_owned(),
        None if roots.iter().any(|r| r.starts_with(here) && r != here) => here.join(NAME),
        None => here.to_owned(),
    };
    for root in roots {
        if wanted.starts_with(root) {
            return Err(Failure::usage(format_args!(
                "the agent's own cgroup {} lies in the enforced root {}: start it elsewhere, or name one with --agent-cgroup",
                wanted.display(),
                root.display()
            )));
        }
        if root.starts_with(&wanted) {
            return Err(Failure::usage(format_args!(
                "the enforced root {} lies in the agent's own cgroup {}: name another with --agent-cgroup",
                root.display(),
                wanted.display()
            )));
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_lives_neither_in_nor_above_an_enforced_root() {
        let roots = [PathBuf::from("/cg/pods")];
        let settled = |here: &str, chosen: Option<&str>| {
            plan(Path::new(here), chosen.map(Path::new), &roots).map_err(|f| f.message)
        };
        assert_eq!(settled("/cg/system", None), Ok("/cg/system".into()));
        assert_eq!(settled("/cg", None), Ok("/cg/egress-agent".into()));
        assert_eq!(settled("/cg", Some("/cg/mine")), Ok("/cg/mine".into()));
        assert_eq!(settled("/cg/podsfoo", None), Ok("/cg/podsfoo".into()));
        for (here, chosen) in [
            ("/cg/pods", None),
            ("/cg/pods/a", None),
            ("/cg", Some("/cg/pods/x")),
            ("/cg/a", Some("/cg")),
        ] {
            assert!(
                settled(here, chosen)
                    .unwrap_err()
                    .contains("--agent-cgroup"),
                "{here}"
            );
        }
        let whole = plan(Path::new("/cg"), None, &["/cg".into()]).unwrap_err();
        assert!(whole.message.contains("enforced root /cg"), "{whole}");
    }
}
