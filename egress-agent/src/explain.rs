//! `egress-agent explain`: why a destination is let through or refused, by rule files alone. Needs
//! no kernel, no root and no running agent.

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
    /// Rule files and folders
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    rules: Vec<PathBuf>,
    /// Namespace of the workload that asks
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// A label of the workload that asks
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// HOST:PORT, IP:PORT or URL
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("no `=` in it")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// Writes the verdict and its reasons; a failure with exit code 1 if the destination is refused.
pub fn run(asked: &Asked, out: &mut impl Write) -> anyhow::Result<()> {
    let question = Question::parse(&asked.destination)
        .map_err(|e| Failure::usage(format_args!("{}: {e}", asked.destination)))?;
    let files = files::read(&asked.rules).map_err(Failure::usage)?;
    let rules = rules::compile(&files).map_err(Failure::usage)?;
    let mut state = State::new(Settings {
        unknown: Workload {
            namespace: asked.namespace.clone(),
            labels: asked.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            service_account: String::new(),
        },
        ..Settings::default()
    });
    state.handle_rules(Instant::now(), &rules.objects);
    let explanation = state.explain(egress_ebpf::abi::DEFAULT_POLICY, &question);
    for line in &explanation.lines {
        writeln!(out, "{line}")?;
    }
    if explanation.allowed {
        return Ok(());
    }
    Err(Failure::finding(format_args!("{} is refused", asked.destination)).into())
}
