//! `egress-agent wait`: returns when a running agent is ready, when its gate is closed, or when a rule is in force on its
//! node or on all nodes.

use super::args::AdminArgs;
use super::quiet;
use crate::config::Span;
use crate::failure::Failure;
use crate::kubernetes::{ApiClient, connect_as_user};
use crate::operate::client;
use crate::rollout::{Agents, Goal, wait_for_nodes};
use anyhow::Context as _;
use egress_core::istio::RuleName;
use std::io::Write as _;
use std::path::PathBuf;

/// The namespace and the labels of the agents' pods in the chart.
const NAMESPACE: &str = "egress-system";
const SELECTOR: &str = "app.kubernetes.io/name=egress-agent";

/// Arguments of `wait`.
#[derive(Debug, clap::Args)]
pub struct WaitArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: Span,
    /// Wait only until the gate is closed. An agent is not ready while a root has no workload
    #[arg(long)]
    closed: bool,
    /// Wait until this object is in force on this node: serviceentry/shop/a. Exit 1 if the agent refuses it
    #[arg(long, value_name = "KIND/NAMESPACE/NAME", conflicts_with = "closed")]
    rule: Option<RuleName>,
    /// With --rule: wait for this metadata.generation or a later one
    #[arg(long, value_name = "NUMBER", requires = "rule")]
    generation: Option<i64>,
    /// With --rule: wait until the object is no longer in force
    #[arg(long, requires = "rule", conflicts_with = "generation")]
    gone: bool,
    /// With --rule: wait for the nodes of all agents, by the Kubernetes API. They need kubernetes.publishRules
    #[arg(long, requires = "rule", conflicts_with_all = ["config", "admin_socket"])]
    all_nodes: bool,
    /// With --all-nodes: kubeconfig [default: as kubectl finds it, else the pod's service account]
    #[arg(long, value_name = "FILE", requires = "all_nodes")]
    kubeconfig: Option<PathBuf>,
    /// With --all-nodes: namespace of the agents [default: egress-system, in a pod the pod's own]
    #[arg(long, value_name = "NAMESPACE", requires = "all_nodes")]
    namespace: Option<String>,
    /// With --all-nodes: labels of the agents' pods
    #[arg(long, value_name = "SELECTOR", default_value = SELECTOR, requires = "all_nodes")]
    selector: String,
}

/// The verb.
pub fn run(args: WaitArgs) -> anyhow::Result<()> {
    let limit = args.timeout.0;
    let Some(rule) = args.rule.clone() else {
        return client::wait(&args.admin.socket()?, limit, args.closed);
    };
    let goal = if args.gone {
        Goal::Gone
    } else {
        Goal::InForce(args.generation)
    };
    if !args.all_nodes {
        return client::wait_rule(&args.admin.socket()?, limit, &rule, goal);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let nodes = runtime.block_on(async {
        let api = connect_as_user(args.kubeconfig.as_deref()).await?;
        let agents = Agents {
            namespace: args.namespace.unwrap_or_else(|| namespace(&api)),
            selector: args.selector,
        };
        let waited = wait_for_nodes(&api, &agents, rule.clone(), goal, limit).await;
        waited.map_err(Failure::finding)
    })?;
    let state = match goal {
        Goal::Gone => "is in force on none of",
        Goal::InForce(_) => "is in force on all",
    };
    let mut out = quiet::stdout();
    writeln!(out, "{rule} {state} {nodes} nodes")?;
    Ok(out.flush()?)
}

/// A kubeconfig's namespace is where its user works.
fn namespace(api: &ApiClient) -> String {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        api.namespace().to_owned()
    } else {
        NAMESPACE.to_owned()
    }
}
