//! The client of the API server: where it is, whom it trusts and who the agent is there. Sends nothing by itself, so an
//! API server that is away is no error here.

use crate::config::Kubernetes;
use crate::failure::Failure;
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::ConfigExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::error::Error;
use std::path::Path;
use std::time::Duration;
use tower::{BoxError, ServiceBuilder};

/// The limit of one connection attempt. The kernel repeats a SYN that a host which is down did not answer after 1, 3 and
/// 7 s; a new attempt finds sooner that the host is back.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection without traffic is checked after this time, and given up if the answer takes as long.
const ALIVE: Duration = Duration::from_secs(15);

/// Talks to the API server. Clones share its connections.
#[derive(Clone)]
pub struct ApiClient {
    pub(super) client: kube::Client,
}

/// The client of the server that the config names: by a kubeconfig, else by the pod's service account.
pub async fn connect(settings: &Kubernetes) -> Result<ApiClient, Failure> {
    let config = match &settings.kubeconfig {
        Some(path) => from_file(path).await?,
        None => kube::Config::incluster().map_err(|error| {
            Failure::usage(format_args!(
                "kubernetes: cannot use the pod's service account: {error}; set automountServiceAccountToken, or name a \
                 file with --kubeconfig PATH or `kubernetes.kubeconfig`"
            ))
        })?,
    };
    client(config).map_err(|error| {
        let whole = anyhow::Error::from_boxed(error);
        Failure::usage(format_args!("kubernetes: cannot make a client: {whole:#}"))
    })
}

/// The client of a person: by this kubeconfig, else as kubectl finds it (`KUBECONFIG`, `~/.kube/config`), else by the pod's
/// service account. Programs of the kubeconfig that authenticate the person are run.
pub async fn connect_as_user(kubeconfig: Option<&Path>) -> Result<ApiClient, Failure> {
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::usage(format_args!(
            "cannot use the Kubernetes API: {error}; name a kubeconfig with --kubeconfig PATH"
        ))
    };
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
            let options = KubeConfigOptions::default();
            let loaded = kube::Config::from_custom_kubeconfig(file, &options).await;
            loaded.map_err(|error| wrong(&error))?
        }
        None => kube::Config::infer().await.map_err(|error| wrong(&error))?,
    };
    client(config).map_err(|error| {
        let whole = anyhow::Error::from_boxed(error);
        wrong(&format_args!("{whole:#}"))
    })
}

async fn from_file(path: &Path) -> Result<kube::Config, Failure> {
    let wrong = |what: &dyn std::fmt::Display| {
        Failure::usage(format_args!("kubeconfig {}: {what}", path.display()))
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
    let options = KubeConfigOptions::default();
    let loaded = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let config = loaded.map_err(|error| wrong(&error))?;
    if config.auth_info.exec.is_some() || config.auth_info.auth_provider.is_some() {
        return Err(wrong(
            &"the user is authenticated by a program, and the agent starts none; use a token file or a client certificate",
        ));
    }
    if config.accept_invalid_certs {
        return Err(wrong(
            &"insecure-skip-tls-verify would let anyone on the path be the API server; name its certificate-authority",
        ));
    }
    if config.proxy_url.is_some() {
        return Err(wrong(&"proxy-url is not supported"));
    }
    Ok(config)
}

fn client(config: kube::Config) -> Result<ApiClient, Box<dyn Error + Send + Sync>> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT));
    http.set_keepalive(Some(ALIVE));
    http.set_keepalive_interval(Some(ALIVE / 3));
    http.set_keepalive_retries(Some(3));
    let mut https = HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into()?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    // With HTTP/2 all watches of a node share one connection. The client of the kube crate has HTTP/1.1 only.
    let connector = https.enable_all_versions().wrap_connector(http);
    let client = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(ALIVE)
        .http2_keep_alive_timeout(ALIVE)
        .http2_keep_alive_while_idle(true)
        .build::<_, kube::client::Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    Ok(ApiClient {
        client: kube::Client::new(service, config.default_namespace),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(text: &str) -> Result<ApiClient, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, text).unwrap();
        connect(&Kubernetes {
            kubeconfig: Some(path),
            ..Kubernetes::default()
        })
        .await
    }

    fn file(cluster: &str, user: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}],\
             clusters: [{{name: c, cluster: {{{cluster}}}}}], users: [{{name: u, user: {{{user}}}}}]}}"
        )
    }

    #[tokio::test]
    async fn a_kubeconfig_that_the_agent_cannot_use_is_one_line_that_says_why() {
        let away = "server: 'https://192.0.2.1:6443', certificate-authority-data: ''";
        for (text, part) in [
            ("clusters: [".to_owned(), "parse"),
            ("{}".to_owned(), "current context"),
            (
                file(
                    away,
                    "exec: {apiVersion: client.authentication.k8s.io/v1, command: x}",
                ),
                "by a program",
            ),
            (
                file(
                    "server: 'https://192.0.2.1', insecure-skip-tls-verify: true",
                    "token: a",
                ),
                "insecure-skip-tls-verify",
            ),
            (
                file(
                    "server: 'https://192.0.2.1', proxy-url: 'http://192.0.2.2'",
                    "token: a",
                ),
                "proxy-url",
            ),
            (
                file("server: 'http://192.0.2.1'", "tokenFile: /nonexistent"),
                "/nonexistent",
            ),
        ] {
            let Err(failure) = of(&text).await else {
                panic!("accepted: {text}")
            };
            assert_eq!(failure.code, crate::failure::USAGE);
            assert!(failure.message.contains(part), "{part}: {failure}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_no_error() {
        assert!(
            of(&file("server: 'http://127.0.0.1:1'", "token: a"))
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn outside_a_cluster_the_error_says_what_to_set() {
        let Err(failure) = connect(&Kubernetes::default()).await else {
            panic!("a service account in a test")
        };
        assert!(failure.message.contains("--kubeconfig"), "{failure}");
    }
}
