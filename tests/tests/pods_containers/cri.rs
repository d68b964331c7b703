//! A client of the Container Runtime Interface, as the kubelet is one: gRPC on a Unix socket, one
//! call at a time. The messages are in `api`.

use super::api::{
    ContainerConfig, ContainerId, ContainerStatus, ContainerStatusResponse, CreateContainer,
    ExecSync, ExecSyncResponse, Nothing, PodSandboxConfig, PodSandboxId, PodSandboxStatusResponse,
    RunPodSandbox,
};
use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// What a program in a container did.
#[derive(Debug)]
pub struct Done {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

/// See the module.
pub struct Cri {
    runtime: Runtime,
    socket: PathBuf,
}

impl Cri {
    pub fn new(socket: &Path) -> Result<Self> {
        Ok(Self {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?,
            socket: socket.to_owned(),
        })
    }

    /// Whether the runtime answers.
    pub fn is_up(&self) -> bool {
        self.call::<_, Nothing>("Version", &Nothing {}).is_ok()
    }

    /// Makes a pod: its cgroup, its namespace with its network, its pause container.
    pub fn run_sandbox(&self, config: &PodSandboxConfig) -> Result<String> {
        let request = RunPodSandbox {
            config: Some(config.clone()),
        };
        let made: PodSandboxId = self.call("RunPodSandbox", &request)?;
        Ok(made.id)
    }

    /// The addresses of a pod.
    pub fn addresses(&self, sandbox: &str) -> Result<Vec<IpAddr>> {
        let status: PodSandboxStatusResponse = self.call("PodSandboxStatus", &id_of(sandbox))?;
        let network = status.status.and_then(|s| s.network);
        let network = network.context("a pod without a network")?;
        let others = network.additional_ips.into_iter().map(|other| other.ip);
        let all = std::iter::once(network.ip).chain(others);
        all.map(|ip| Ok(ip.parse()?)).collect()
    }

    /// Makes and starts a container.
    pub fn start(
        &self,
        sandbox: &str,
        of: &PodSandboxConfig,
        config: ContainerConfig,
    ) -> Result<String> {
        let request = CreateContainer {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(of.clone()),
        };
        let made: ContainerId = self.call("CreateContainer", &request)?;
        self.call::<_, Nothing>("StartContainer", &made)?;
        Ok(made.id)
    }

    /// How a container is.
    pub fn container(&self, id: &str) -> Result<ContainerStatus> {
        let id = ContainerId { id: id.to_owned() };
        let status: ContainerStatusResponse = self.call("ContainerStatus", &id)?;
        status.status.context("a container without a status")
    }

    /// Runs a program in a container to its end.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<Done> {
        let request = ExecSync {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 60,
        };
        let done: ExecSyncResponse = self.call("ExecSync", &request)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Done {
            exit: done.exit_code,
            stdout: text(&done.stdout),
            stderr: text(&done.stderr),
        })
    }

    /// Ends a pod and removes it with its containers.
    pub fn remove(&self, sandbox: &str) -> Result<()> {
        self.call::<_, Nothing>("StopPodSandbox", &id_of(sandbox))?;
        self.call::<_, Nothing>("RemovePodSandbox", &id_of(sandbox))?;
        Ok(())
    }

    fn call<A: Message, B: Message + Default>(&self, method: &str, request: &A) -> Result<B> {
        let answer = self.unary(method, request.encode_to_vec());
        let bytes = self
            .runtime
            .block_on(answer)
            .with_context(|| method.to_owned())?;
        Ok(B::decode(bytes)?)
    }

    /// One call on a connection of its own: a frame there, a frame back, the status in a trailer
    /// (grpc `doc/PROTOCOL-HTTP2.md`).
    async fn unary(&self, method: &str, message: Vec<u8>) -> Result<Bytes> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len())?.to_be_bytes());
        frame.extend(message);
        let request = Request::post(format!(
            "http://localhost/runtime.v1.RuntimeService/{method}"
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(frame)))?;
        let response = sender.send_request(request).await?;
        let head = response.headers().clone();
        let body = response.into_body().collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let text = |name: &str| {
            let value = trailers.get(name).or_else(|| head.get(name));
            value.and_then(|v| Some(v.to_str().ok()?.to_owned()))
        };
        match text("grpc-status").as_deref() {
            Some("0") => {}
            code => bail!(
                "status {code:?}: {}",
                text("grpc-message").unwrap_or_default()
            ),
        }
        let mut bytes = body.to_bytes();
        ensure!(bytes.len() >= 5, "an answer without a message");
        Ok(bytes.split_off(5))
    }
}

fn id_of(sandbox: &str) -> PodSandboxId {
    PodSandboxId {
        id: sandbox.to_owned(),
    }
}
