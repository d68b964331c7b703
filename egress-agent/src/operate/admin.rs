//! The Unix socket on which a running agent answers requests. It has mode 0600, and the peer must be root
//! or the agent's own user.

use super::request::{Request, TIMEOUT};
use anyhow::Context as _;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// The most bytes of a request.
const MAX_REQUEST: u64 = 8192;
/// Time between two checks that the socket exists.
const GONE: Duration = Duration::from_secs(2);
/// Time between two tries to accept.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

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

/// Answers requests, one at a time. `reply` returns the JSON document of an answer. Does not return.
pub async fn serve<F>(listener: UnixListener, reply: impl Fn(Request) -> F)
where
    F: Future<Output = Option<Vec<u8>>>,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answered = tokio::time::timeout(TIMEOUT, answer(stream, &reply)).await;
                if let Ok(Err(error)) = answered {
                    tracing::debug!(%error, "an admin client disconnected");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accepting on the admin socket failed");
                tokio::time::sleep(RETRY_INTERVAL).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::client::{ask, wait};
    use crate::operate::status::Status;

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
