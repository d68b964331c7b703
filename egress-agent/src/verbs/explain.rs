//! `egress-agent explain`: prints the gate's verdict on a destination, and the reason. It asks the running
//! agent. With `--rules` it evaluates rule files with the agent's config, and needs no kernel support, no
//! root and no agent.

use super::args::AdminArgs;
use crate::cgroup2;
use crate::config::{Config, LogFormat, Settings};
use crate::engine;
use crate::failure::Failure;
use crate::operate::client;
use crate::operate::request::{self, Explained, Queried};
use crate::operate::status::WorkloadStatus;
use crate::sources::{files, rules};
use egress_core::dns::query::Question as Query;
use egress_core::dns::settings::QuerySettings;
use egress_core::policy::explain::{Explanation, Question};
use egress_core::policy::leases::Answer;
use egress_core::policy::state::{self, State};
use egress_core::registry::scope::Workload;
use egress_ebpf::abi::DEFAULT_POLICY;
use egress_ebpf::ids::CgroupId;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The question, as flags.
#[derive(Debug, clap::Args)]
pub struct Asked {
    /// Rule files and folders, instead of the running agent; --config adds the agent's settings
    #[arg(long, value_name = "PATH")]
    rules: Vec<PathBuf>,
    /// With --rules: namespace of the workload that asks
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// With --rules: a label of the workload that asks
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Workload that asks the running agent, as the log and `status` spell it: a pod as NAMESPACE/NAME, the path of a
    /// cgroup (with or without the mount), or NAMESPACE/SERVICE-ACCOUNT [default: one without an identity]
    #[arg(long, value_name = "WORKLOAD", conflicts_with = "rules")]
    workload: Option<String>,
    /// Method of the HTTP request
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// A header of the HTTP request
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: LogFormat,
    #[command(flatten)]
    admin: AdminArgs,
    /// Name of a DNS query, instead of a destination: what the agent's DNS server does with it
    #[arg(long, value_name = "NAME", conflicts_with = "destination")]
    query: Option<String>,
    /// Type of that query
    #[arg(
        long = "type",
        value_name = "TYPE",
        default_value = "A",
        requires = "query"
    )]
    kind: String,
    /// HOST:PORT, IP:PORT or URL
    #[arg(value_name = "DESTINATION", required_unless_present = "query")]
    destination: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("no `=` in it")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// Writes the verdict and its reasons.
///
/// # Errors
/// The destination is denied: exit code 1.
pub fn run(asked: Asked, out: &mut impl Write) -> anyhow::Result<()> {
    let query = asked.query.as_ref().map(|name| Queried {
        name: name.clone(),
        kind: asked.kind.clone(),
    });
    let request = request::Asked {
        destination: asked.destination.clone().unwrap_or_default(),
        method: asked.method.clone(),
        headers: asked.headers.clone(),
        workload: asked.owners()?,
        query,
    };
    // Checked before asking the agent: a malformed question is bad usage.
    let query = request.query.as_ref().map(Queried::question).transpose();
    let query = query.map_err(Failure::usage)?;
    let question = if query.is_some() {
        None
    } else {
        let question = request.question();
        Some(question.map_err(|e| Failure::usage(format_args!("{}: {e}", request.destination)))?)
    };
    let output = asked.output;
    let told: Explained = if asked.rules.is_empty() {
        client::explain(&asked.admin.socket()?, request)?
    } else {
        by_files(&asked, query.as_ref(), question.as_ref())?.into()
    };
    match output {
        LogFormat::Json => writeln!(out, "{}", serde_json::to_string(&told)?)?,
        LogFormat::Text => {
            for line in &told.lines {
                writeln!(out, "{line}")?;
            }
        }
    }
    if told.allowed {
        return Ok(());
    }
    Err(Failure::told().into())
}

impl Asked {
    /// Cgroup ids of the named workload, the deepest first; empty without one.
    fn owners(&self) -> anyhow::Result<Vec<CgroupId>> {
        let Some(workload) = &self.workload else {
            return Ok(Vec::new());
        };
        let cgroup = if workload.starts_with('/') {
            folder(workload)?
        } else {
            let status = client::ask(&self.admin.clone().socket()?)?;
            let pod = |one: &&WorkloadStatus| one.pod_name.as_ref() == Some(workload);
            let named = |one: &&WorkloadStatus| one.identity.as_ref() == Some(workload);
            let mut all = status.workloads.iter();
            let found = all.clone().find(pod).or_else(|| all.find(named));
            let found = found.ok_or_else(|| {
                Failure::usage(format_args!(
                    "--workload {workload}: `status` shows no workload of that name; a cgroup's path starts with a slash"
                ))
            })?;
            folder(&found.cgroup)?
        };
        let real = cgroup.canonicalize().map_err(|e| bad(workload, &e))?;
        let ids = real.ancestors().map(cgroup2::id);
        Ok(ids
            .collect::<Result<_, _>>()
            .map_err(|e| bad(workload, &e))?)
    }
}

/// The folder of a cgroup. The path may start at the mount or at the hierarchy's root.
fn folder(path: &str) -> Result<PathBuf, Failure> {
    let (path, mount) = (Path::new(path), cgroup2::mount_point()?);
    if path.starts_with(&mount) {
        return Ok(path.to_owned());
    }
    Ok(mount.join(path.strip_prefix("/").unwrap_or(path)))
}

fn bad(workload: &str, error: &io::Error) -> Failure {
    Failure::usage(format_args!("--workload {workload}: {error}"))
}

/// The answer of an agent with these rules and this config. Each name has an address of its own, as if DNS had
/// returned it.
fn by_files(
    asked: &Asked,
    query: Option<&Query>,
    question: Option<&Question>,
) -> anyhow::Result<Explanation> {
    let reading = files::read(&asked.rules);
    // An agent keeps the last good versions of what it cannot read; here there are none.
    if let Some((path, why)) = reading.failed.first() {
        return Err(Failure::usage(format_args!("{}: {why}", path.display())).into());
    }
    let rules = rules::compile(&reading);
    for problem in &rules.problems {
        eprintln!("egress-agent: {problem}");
    }
    let (settings, queries) = settings(asked)?;
    let mut state = State::new(state::Settings {
        unknown: Workload {
            namespace: asked.namespace.clone(),
            labels: asked.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            ..Workload::default()
        },
        ..settings
    });
    state.handle_rules(Instant::now(), &rules.objects.to_vec());
    resolve(&mut state);
    let explained =
        query.map(|query| state.explain_query(DEFAULT_POLICY, &Arc::new(queries), query));
    let explained = explained.or_else(|| Some(state.explain(DEFAULT_POLICY, question?)));
    explained.ok_or_else(|| Failure::usage("neither a destination nor a query").into())
}

/// The settings of the given config file; without one, the defaults.
fn settings(asked: &Asked) -> Result<(state::Settings, QuerySettings), Failure> {
    let Some(file) = asked.admin.config.as_deref() else {
        return Ok((state::Settings::default(), QuerySettings::default()));
    };
    let flags = Settings {
        rules: asked.rules.clone(),
        // A config needs a root. The explanation does not depend on it.
        cgroups: vec![PathBuf::from("/")],
        ..Settings::default()
    };
    let config = Config::load(flags, Some(file))?;
    let queries = engine::queries(&config, &config.internal);
    Ok((engine::settings(&config), queries))
}

/// Answers every question of the state machine, each name with the next address of the benchmark
/// range (RFC 2544).
fn resolve(state: &mut State) {
    let mut next = u32::from(Ipv4Addr::new(198, 18, 0, 1));
    while let Some(query) = state.poll_query() {
        let answer = Answer {
            addresses: vec![IpAddr::V4(Ipv4Addr::from(next))],
            ttl: Duration::from_hours(1),
        };
        next += 1;
        state.handle_answer(Instant::now(), &query.name, Ok(answer));
    }
}
