//! `egress-agent explain`: why a destination is let through or refused, by the running agent or by
//! rule files alone, which needs no kernel, no root and no agent.

use crate::admin::{self, Explained};
use crate::cgroup2;
use crate::cli::AdminArgs;
use crate::failure::Failure;
use crate::sources::{files, rules};
use egress_core::policy::explain::Question;
use egress_core::policy::state::{Settings, State};
use egress_core::registry::scope::Workload;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// What is asked, by the flags' names.
#[derive(Debug, clap::Args)]
pub struct Asked {
    /// Rule files and folders, instead of the running agent
    #[arg(long, value_name = "PATH")]
    rules: Vec<PathBuf>,
    /// With --rules: namespace of the workload that asks
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// With --rules: a label of the workload that asks
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Cgroup of the workload that asks the running agent [default: one that no one named]
    #[arg(long, value_name = "PATH", conflicts_with = "rules")]
    workload: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// HOST:PORT, IP:PORT or URL
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("no `=` in it")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// Writes the verdict and its reasons; a failure with exit code 1 if the destination is refused.
pub fn run(asked: Asked, out: &mut impl Write) -> anyhow::Result<()> {
    let destination = asked.destination.clone();
    let Explained { allowed, lines } = if asked.rules.is_empty() {
        let workload = asked.workload.as_deref().map(cgroup2::id).transpose();
        let workload = workload.map_err(|e| Failure::usage(format_args!("--workload: {e}")))?;
        admin::explain(&asked.admin.socket()?, &destination, workload)?
    } else {
        by_files(&asked)?
    };
    for line in &lines {
        writeln!(out, "{line}")?;
    }
    if allowed {
        return Ok(());
    }
    Err(Failure::told().into())
}

fn by_files(asked: &Asked) -> anyhow::Result<Explained> {
    let question = Question::parse(&asked.destination)
        .map_err(|e| Failure::usage(format_args!("{}: {e}", asked.destination)))?;
    let files = files::read(&asked.rules).map_err(Failure::usage)?;
    let rules = rules::compile(&files).map_err(Failure::usage)?;
    let mut state = State::new(Settings {
        unknown: Workload {
            namespace: asked.namespace.clone(),
            labels: asked.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            ..Workload::default()
        },
        ..Settings::default()
    });
    state.handle_rules(Instant::now(), &rules.objects);
    let explanation = state.explain(egress_ebpf::abi::DEFAULT_POLICY, &question);
    Ok(Explained {
        allowed: explanation.allowed,
        lines: explanation.lines,
    })
}
