//! Reads the config file again when it changes and on SIGHUP. A file with a mistake changes nothing.
//! Logs the changed fields that need a restart.

use crate::config::{Config, Settings};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Time between two looks at the file.
const LOOK: Duration = Duration::from_secs(2);

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Flags, which beat the file.
    pub flags: Settings,
    /// The config file, where there is one.
    pub file: Option<PathBuf>,
}

/// What distinguishes two versions of a file: device, inode, size, seconds and nanoseconds.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Handles SIGHUP from this call on.
pub fn hangup() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Follows the file and sends each valid version of it to `engine`. Returns when the engine has ended.
pub async fn follow(
    source: Source,
    mut current: Config,
    mut hangup: Signal,
    engine: mpsc::Sender<Config>,
) {
    let file = source.file.as_deref();
    let mut seen = stamp(file);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(LOOK) => false,
        };
        let now = stamp(file);
        if !asked && now == seen {
            continue;
        }
        seen = now;
        let Some(file) = file else {
            tracing::info!(
                "SIGHUP ignored: the agent has no config file; it reloads rule files when they change"
            );
            continue;
        };
        let new = match Config::load(source.flags.clone(), Some(file)) {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(%error, "config not applied; the previous config stays in force");
                continue;
            }
        };
        let fixed = current.take_live(&new);
        if !fixed.is_empty() {
            let fields = fixed.join(", ");
            tracing::warn!(
                fields,
                "restart the agent to change these fields of the config"
            );
        }
        if engine.send(current.clone()).await.is_err() {
            return;
        }
    }
}

fn stamp(file: Option<&Path>) -> Stamp {
    let meta = fs::metadata(file?).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
    ))
}
