//! Asks a running agent on its admin socket, for `status`, `wait` and `explain`.

use super::request::{Asked, Explained, PATIENCE, Request};
use super::status::Status;
use crate::failure::{ABSENT, Failure};
use anyhow::Context as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time between two status requests of [`wait`].
const LOOK: Duration = Duration::from_millis(100);

/// Asks a running agent for its status.
pub fn ask(path: &Path) -> anyhow::Result<Status> {
    request(path, &Request::Status)
}

/// Asks a running agent for its verdict on a destination.
pub fn explain(path: &Path, asked: Asked) -> anyhow::Result<Explained> {
    request(path, &Request::Explain(asked))
}

fn request<T: serde::de::DeserializeOwned>(path: &Path, request: &Request) -> anyhow::Result<T> {
    let mut stream = UnixStream::connect(path).map_err(|e| {
        let shown = path.display();
        match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure {
                code: ABSENT,
                message: format!("{shown}: {e}; no agent runs there: start one, or name its socket with --admin-socket"),
            },
            ErrorKind::PermissionDenied => Failure::privilege(format_args!(
                "{shown}: {e}; run as root, or as the agent's user"
            )),
            _ => Failure::finding(format_args!("{shown}: {e}; asking the agent")),
        }
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let document = serde_json::to_vec(request)?;
    let mut exchange = || {
        stream.write_all(&document)?;
        stream.shutdown(Shutdown::Write)?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).map(|_| text)
    };
    let text = exchange().with_context(|| format!("asking the agent at {}", path.display()))?;
    if text.is_empty() {
        return Err(Failure::finding(format_args!(
            "{}: the agent did not answer: it is stopping, or it rejects this user",
            path.display()
        ))
        .into());
    }
    serde_json::from_slice(&text).context("the agent's answer")
}

/// Waits until a running agent is ready, or until its gate is closed, ready or not.
pub fn wait(path: &Path, limit: Duration, closed: bool) -> anyhow::Result<()> {
    let until = Instant::now() + limit;
    loop {
        let why = match ask(path) {
            Ok(status) if status.ready || (closed && status.closed) => return Ok(()),
            Ok(status) => status
                .trouble
                .unwrap_or_else(|| "not proven yet".to_owned()),
            Err(e) => format!("{e:#}"),
        };
        if Instant::now() >= until {
            return Err(Failure::finding(format_args!("not ready after {limit:?}: {why}")).into());
        }
        std::thread::sleep(LOOK);
    }
}
