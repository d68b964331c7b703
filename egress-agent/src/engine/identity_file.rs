//! The file that keeps the identities of pods for the next agent: while the API server is away, a restarted agent knows
//! who runs on its node. It is beside the admin socket, in a folder that, like the pins, does not survive a reboot.
//!
//! A pod is known by its uid only, so a line of the file never says who another pod is.

use crate::state_file;
use crate::workloads::{Pod, Pods};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The first line, with the version of the form.
const HEAD: &str = "egress-agent pods 1";
/// The last line. Without it the file was cut off.
const END: &str = "end";
/// The most bytes of the file: 500 pods with 10 KiB of labels each.
const MAX_FILE_SIZE: usize = 5 << 20;
/// Delay from a change to the write, which includes later changes too.
const SOON: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct IdentityFile {
    path: PathBuf,
    /// When to write; `None` if nothing has changed.
    due: Option<Instant>,
    /// The last write failed, and that was logged.
    failing: bool,
}

impl IdentityFile {
    /// The file of an agent with this admin socket. Does not read it.
    pub(super) fn beside(admin_socket: &Path) -> Self {
        Self {
            path: admin_socket.with_extension("pods"),
            due: None,
            failing: false,
        }
    }

    /// The pods of the previous agent; none if its file cannot be trusted.
    pub(super) fn restored(&self) -> Vec<Pod> {
        match read(&self.path) {
            Ok(pods) => {
                if !pods.is_empty() {
                    tracing::info!(
                        pods = pods.len(),
                        "restored identities of pods from the previous agent"
                    );
                }
                pods
            }
            Err(error) => {
                let (file, error) = (self.path.display(), format!("{error:#}"));
                tracing::warn!(%file, error, "cannot use the identities of pods of the previous agent");
                Vec::new()
            }
        }
    }

    /// When [`Self::keep`] is due.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The pods changed.
    pub(super) fn changed(&mut self, now: Instant) {
        self.due.get_or_insert(now + SOON);
    }

    /// Writes the pods if they changed. Some tens of KB go to the page cache, so nobody has to wait for a disk.
    pub(super) fn keep(&mut self, pods: &Pods) {
        if self.due.take().is_none() {
            return;
        }
        let result = write(&self.path, pods);
        if let Err(error) = &result
            && !self.failing
        {
            let (file, error) = (self.path.display(), format!("{error:#}"));
            tracing::warn!(%file, error, "cannot store the identities of pods for the next agent");
        }
        self.failing = result.is_err();
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<Pod>> {
    let Some(text) = state_file::read(path, MAX_FILE_SIZE)? else {
        return Ok(Vec::new());
    };
    let mut lines = text.lines();
    anyhow::ensure!(lines.next() == Some(HEAD), "another form");
    anyhow::ensure!(lines.next_back() == Some(END), "it is cut off");
    lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn write(path: &Path, pods: &Pods) -> anyhow::Result<()> {
    let mut text = format!("{HEAD}\n");
    for pod in pods.all() {
        text.push_str(&serde_json::to_string(&**pod)?);
        text.push('\n');
    }
    text.push_str(END);
    text.push('\n');
    state_file::write(path, &text, MAX_FILE_SIZE).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn pods_come_back_and_a_file_that_is_cut_off_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = IdentityFile::beside(&dir.path().join("agent.sock"));
        assert!(file.restored().is_empty());
        let pod = |uid: &str| Pod {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            labels: [("a".to_owned(), "line\nbreak".to_owned())].into(),
            containers: [("7d".to_owned(), "main".to_owned())].into(),
            ..Pod::default()
        };
        let pods = Pods::restored(vec![pod("a"), pod("b")]);
        file.keep(&pods);
        assert!(file.restored().is_empty(), "nothing was due");
        let now = Instant::now();
        file.changed(now);
        file.changed(now + SOON / 2);
        assert_eq!(file.due(), Some(now + SOON), "not put off");
        file.keep(&pods);
        assert_eq!(
            (file.restored(), file.due()),
            (vec![pod("a"), pod("b")], None)
        );
        let path = dir.path().join("agent.pods");
        let text = fs::read_to_string(&path).unwrap();
        for wrong in [
            &text[..text.len() - 4],
            &text[10..],
            &text.replace("\"uid\"", "\"id\""),
        ] {
            state_file::write(&path, wrong, MAX_FILE_SIZE).unwrap();
            assert!(read(&path).is_err(), "{wrong}");
            assert!(file.restored().is_empty());
        }
    }
}
