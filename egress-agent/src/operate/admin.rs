//! The Unix socket on which a running agent answers `status`, `wait` and `explain`, and its clients.
//!
//! The socket has mode 0600, and the peer must be root or the agent's own user. A connection carries one
//! request and one answer, each a JSON document; the sender closes its direction after it. An empty
//! request asks for the status.

use crate::failure::{ABSENT, Failure};
use crate::operate::status::Status;
use anyhow::Context as _;
use egress_core::policy::explain::{DeniedBy, Explanation, Flow, Question, QuestionError, Speaks};
use egress_core::policy::tables::Transport;
use egress_ebpf::ids::CgroupId;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// How long an exchange with a client may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of a request.
const MAX_REQUEST: u64 = 8192;
/// Time between two checks that the socket exists.
const GONE: Duration = Duration::from_secs(2);
/// Time between two status requests of `wait`.
const LOOK: Duration = Duration::from_millis(100);

/// Listens on the socket. Replaces the socket of an agent that has ended.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => anyhow::bail!("{}: another agent answers there", path.display()),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(_) if !is_socket(path)? => {
            anyhow::bail!("{}: exists and is not a socket", path.display())
        }
        Err(_) => fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?,
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("binding {}", path.display()))?;
    // `answer` checks the credentials of a client that connects before this.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Returns when the socket that this process listens on is no longer at its path.
pub async fn replaced(path: &Path) {
    let inode = || {
        fs::symlink_metadata(path)
            .ok()
            .map(|meta| (meta.dev(), meta.ino()))
    };
    let ours = inode();
    while ours.is_some() && inode() == ours {
        tokio::time::sleep(GONE).await;
    }
}

fn is_socket(path: &Path) -> std::io::Result<bool> {
    Ok(fs::symlink_metadata(path)?.file_type().is_socket())
}

/// What a client asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// [`Status`].
    #[default]
    Status,
    /// [`Explained`].
    Explain(Asked),
}

/// A destination that is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Asked {
    /// HOST:PORT, IP:PORT or URL.
    pub destination: String,
    /// Method of the HTTP request; empty means GET.
    pub method: String,
    /// Headers of the HTTP request, as `NAME: VALUE`.
    pub headers: Vec<String>,
    /// Cgroup ids of the workload that would dial it: its own, then those of the cgroups above.
    /// Empty: a workload that no entry matches.
    pub workload: Vec<CgroupId>,
}

impl Asked {
    /// The question in the engine's form.
    pub fn question(&self) -> Result<Question, QuestionError> {
        let mut question = Question::parse(&self.destination)?;
        if !self.method.is_empty() {
            question = question.with_method(&self.method)?;
        }
        self.headers
            .iter()
            .try_fold(question, |question, header| question.with_header(header))
    }
}

/// The verdict on a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Whether a flow gets through.
    pub allowed: bool,
    /// What denies it: `kernel` (the call fails), `proxy` (the connection is closed), or the HTTP status
    /// that the proxy answers.
    pub denied_by: Option<String>,
    /// The code of the reason, as the log line of the denial has it.
    #[serde(default)]
    pub reason: Option<String>,
    /// The verdict and its reasons, a line each.
    pub lines: Vec<String>,
    /// The flows that were judged.
    #[serde(default)]
    pub flows: Vec<JudgedFlow>,
}

/// A flow that was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JudgedFlow {
    /// The dialled address.
    pub to: SocketAddr,
    /// `tcp` or `udp`.
    pub transport: String,
    /// `http`, `http2`, `tls` or `bytes`.
    pub speaks: String,
}

impl From<Flow> for JudgedFlow {
    fn from(flow: Flow) -> Self {
        let transport = match flow.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let speaks = match flow.speaks {
            Speaks::Http => "http",
            Speaks::Http2 => "http2",
            Speaks::Tls => "tls",
            Speaks::Bytes => "bytes",
        };
        Self {
            to: flow.to,
            transport: transport.to_owned(),
            speaks: speaks.to_owned(),
        }
    }
}

impl From<Explanation> for Explained {
    fn from(explanation: Explanation) -> Self {
        let by = |denied| match denied {
            DeniedBy::Kernel => "kernel".to_owned(),
            DeniedBy::Closed => "proxy".to_owned(),
            DeniedBy::Status(status) => status.to_string(),
        };
        Self {
            allowed: explanation.allowed(),
            denied_by: explanation.denied.map(by),
            reason: explanation.reason.map(str::to_owned),
            lines: explanation.lines,
            flows: explanation.flows.into_iter().map(Into::into).collect(),
        }
    }
}

/// Answers requests, one at a time. `reply` returns the JSON document of an answer. Does not return.
pub async fn serve<F>(listener: UnixListener, reply: impl Fn(Request) -> F)
where
    F: Future<Output = Option<Vec<u8>>>,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answered = tokio::time::timeout(PATIENCE, answer(stream, &reply)).await;
                if let Ok(Err(error)) = answered {
                    tracing::debug!(%error, "an admin client disconnected");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accepting on the admin socket failed");
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

async fn answer<F>(mut stream: UnixStream, reply: &impl Fn(Request) -> F) -> anyhow::Result<()>
where
    F: Future<Output = Option<Vec<u8>>>,
{
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != rustix::process::geteuid().as_raw() {
        tracing::warn!(
            uid = peer,
            "admin client rejected: it is neither root nor the agent's user"
        );
        return Ok(());
    }
    let mut text = Vec::new();
    (&mut stream)
        .take(MAX_REQUEST)
        .read_to_end(&mut text)
        .await?;
    let request = match text.as_slice() {
        [] => Request::default(),
        text => serde_json::from_slice(text).context("malformed request")?,
    };
    let document = reply(request).await.context("the agent is stopping")?;
    stream.write_all(&document).await?;
    Ok(stream.shutdown().await?)
}

/// Asks a running agent for its status.
pub fn ask(path: &Path) -> anyhow::Result<Status> {
    request(path, &Request::Status)
}

/// Asks a running agent for its verdict on a destination.
pub fn explain(path: &Path, asked: Asked) -> anyhow::Result<Explained> {
    request(path, &Request::Explain(asked))
}

fn request<T: serde::de::DeserializeOwned>(path: &Path, request: &Request) -> anyhow::Result<T> {
    let mut stream = std::os::unix::net::UnixStream::connect(path).map_err(|e| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_not_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.yaml");
        fs::write(&path, "kept").unwrap();
        assert!(
            listen(&path)
                .unwrap_err()
                .to_string()
                .contains("not a socket")
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_gets_the_status_and_a_dead_socket_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = listen(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let status = Status {
            ready: true,
            ..Status::default()
        };
        let given = status.clone();
        let server = tokio::spawn(async move {
            let document = serde_json::to_vec(&given).unwrap();
            serve(listener, |_| std::future::ready(Some(document.clone()))).await;
        });
        let (asked, waited, second) = tokio::task::spawn_blocking(move || {
            (
                ask(&path),
                wait(&path, Duration::from_secs(5), false),
                listen(&path).map(drop),
            )
        })
        .await
        .unwrap();
        assert_eq!(asked.unwrap(), status);
        waited.unwrap();
        assert!(second.unwrap_err().to_string().contains("another agent"));
        server.abort();
    }
}
