//! The command line: parses it, hands over, turns an error into one line and an exit code.

use crate::config::reload::Source;
use crate::config::{
    Config, DEFAULT_ADMIN_SOCKET, DEFAULT_BPF_DIR, DEFAULT_MAX_NETWORKS, Essentials, LogFormat,
    Settings, Span,
};
use crate::failure::{ABSENT, Failure, USAGE};
use crate::gate::{self, Closing};
use crate::kernel::canary;
use crate::observe::log;
use crate::operate::admin;
use crate::operate::pinned;
use crate::verbs::quiet;
use crate::verbs::{check, exec, explain};
use crate::{app, privilege};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Lets out of a cgroup what Istio's rules list, and nothing else.
#[derive(Debug, Parser)]
#[command(name = "egress-agent", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Close the gate around the enforced roots and serve what the rules list
    Run(RunArgs),
    /// Close the gate around the enforced roots without rules, prove it and leave; an agent takes
    /// it over. A gate that is closed already is left as it is
    Close(CloseArgs),
    /// Run a command behind the gate, in a fresh cgroup below an enforced root
    Exec(ExecArgs),
    /// Say of each rule in files and folders whether it is valid, and why not
    Check {
        /// Files and folders
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Who reads the verdicts
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: check::Output,
        /// Exit with 2 if a field is not carried out or a port is open to any address
        #[arg(long)]
        strict: bool,
    },
    /// Say what the gate does with a destination and which rule says so; exit 1 if it is denied
    Explain(explain::Asked),
    /// Say how a running agent is, or the gate that is pinned without one; exit 0 if ready, 1 if
    /// not, 69 if no agent runs, 77 if it may not be asked
    Status(StatusArgs),
    /// Wait until a running agent is ready
    Wait(WaitArgs),
    /// Open the gate: detach every program and remove every pin
    Detach(DetachArgs),
    /// Wait until a cgroup is empty and remove it
    #[command(name = exec::REAPER_VERB, hide = true)]
    Reap {
        /// The cgroup's folder
        cgroup: PathBuf,
    },
    /// Try to leave from within a cgroup, and say by the exit code whether the kernel refused it
    #[command(name = canary::VERB, hide = true)]
    Canary {
        /// The cgroup's folder
        cgroup: PathBuf,
        /// What it is to try, and how it is to end
        words: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Config file, YAML; a flag beats its field there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
struct CloseArgs {
    /// Config file of the agent, for `cgroups`, `bpfDir` and `maxNetworks`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Enforced root [default: those of the config file]
    #[arg(long = "cgroup", value_name = "PATH")]
    cgroups: Vec<PathBuf>,
    /// Where programs, links and maps are pinned [default: /sys/fs/bpf/egress-agent]
    #[arg(long, value_name = "PATH")]
    bpf_dir: Option<PathBuf>,
    /// Make roots that are not there. Only for a path that the kubelet or the service manager will
    /// use: a root made elsewhere is closed around nothing
    #[arg(long)]
    create: bool,
    /// How long to wait for roots that are not there
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    wait: Span,
}

#[derive(Debug, Args)]
struct ExecArgs {
    /// Config file of the agent, for `cgroups` and `bpfDir`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Enforced root to run below [default: the first of the config file]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Where the agent pinned its programs
    #[arg(long, value_name = "PATH")]
    bpf_dir: Option<PathBuf>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct DetachArgs {
    /// Config file of the agent, for `bpfDir`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the agent pinned its programs
    #[arg(long, value_name = "PATH")]
    bpf_dir: Option<PathBuf>,
}

/// Where the running agent answers.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// Config file of the agent: `adminSocket`, and with `explain --rules` every setting
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Unix socket of the agent [default: /run/egress-agent.sock]
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,
}

impl AdminArgs {
    /// The config file, where one is named.
    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Its socket.
    pub fn socket(self) -> Result<PathBuf, Failure> {
        let file = file_settings(self.config)?;
        let named = self.admin_socket.or(file.admin_socket);
        Ok(named.unwrap_or_else(|| DEFAULT_ADMIN_SOCKET.into()))
    }
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Without an agent: where the gate is pinned [default: /sys/fs/bpf/egress-agent]
    #[arg(long, value_name = "PATH")]
    bpf_dir: Option<PathBuf>,
    /// How it is written
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: LogFormat,
}

#[derive(Debug, Args)]
struct WaitArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// How long at most
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: Span,
    /// Wait only until the gate is closed: a root without workloads is not ready before one comes
    #[arg(long)]
    closed: bool,
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Nobody reads what a closed pipe does not take.
            drop(e.print());
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            quiet::error(format_args!("egress-agent: {}", usage_line(&e)));
            return USAGE.into();
        }
    };
    if let Verb::Canary { cgroup, words } = &cli.verb {
        return canary::run(cgroup, words);
    }
    match dispatch(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let message = format!("{e:#}");
            if !message.is_empty() {
                quiet::error(format_args!("egress-agent: {message}"));
            }
            Failure::code_of(&e).into()
        }
    }
}

fn dispatch(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Run(args) => run(args),
        Verb::Close(args) => close(args),
        Verb::Exec(args) => {
            let file = file_settings(args.config)?;
            let root = args.cgroup.or_else(|| file.cgroups.first().cloned()).ok_or_else(|| {
                Failure::usage("no enforced root: name one with --cgroup PATH or a config file with --config")
            })?;
            let bpf_dir = args
                .bpf_dir
                .or(file.bpf_dir)
                .unwrap_or_else(|| DEFAULT_BPF_DIR.into());
            match exec::run(&root, &args.command, |root| {
                gate::is_attached(&bpf_dir, root)
            })? {}
        }
        Verb::Check {
            paths,
            output,
            strict,
        } => {
            let colour = std::io::stdout().is_terminal();
            check::run(&paths, output, strict, colour, &mut quiet::stdout())
        }
        Verb::Explain(asked) => explain::run(asked, &mut quiet::stdout()),
        Verb::Status(args) => status(args),
        Verb::Wait(args) => admin::wait(&args.admin.socket()?, args.timeout.0, args.closed),
        Verb::Detach(args) => {
            let file = file_settings(args.config)?;
            privilege::require()?;
            gate::detach(
                &args
                    .bpf_dir
                    .or(file.bpf_dir)
                    .unwrap_or_else(|| DEFAULT_BPF_DIR.into()),
            )
        }
        Verb::Reap { cgroup } => exec::reap(&cgroup),
        Verb::Canary { .. } => Ok(()),
    }
}

fn run(args: RunArgs) -> anyhow::Result<()> {
    let flags = args.settings.clone();
    let config = match Config::load(args.settings, args.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            let Some(file) = &args.config else {
                return Err(error.into());
            };
            // A config file that was fine at the last boot must not leave the node open at this one.
            let known = Essentials::of(&flags, file);
            let error = gate::close_for(error, &known);
            return Err(log::last_line(error.into(), known.log_format));
        }
    };
    let source = Source {
        flags,
        file: args.config,
    };
    // Before the cgroups are looked at and anything is made.
    let allowed = privilege::require().map_err(anyhow::Error::from);
    allowed
        .and_then(|()| app::run(&config, source))
        .map_err(|error| log::last_line(error, config.log.format))
}

fn close(args: CloseArgs) -> anyhow::Result<()> {
    let file = file_settings(args.config)?;
    let cgroups = if args.cgroups.is_empty() {
        file.cgroups
    } else {
        args.cgroups
    };
    if cgroups.is_empty() {
        return Err(Failure::usage(
            "no enforced root: name one with --cgroup PATH or a config file with --config",
        )
        .into());
    }
    gate::close_and_leave(&Closing {
        bpf_dir: args
            .bpf_dir
            .or(file.bpf_dir)
            .unwrap_or_else(|| DEFAULT_BPF_DIR.into()),
        cgroups,
        max_networks: file.max_networks.unwrap_or(DEFAULT_MAX_NETWORKS),
        create: args.create,
        wait: args.wait.0,
    })
}

fn status(args: StatusArgs) -> anyhow::Result<()> {
    let bpf_dir = args.bpf_dir;
    let file = file_settings(args.admin.config.clone())?;
    let socket = args.admin.socket()?;
    let (status, result) = match admin::ask(&socket) {
        Ok(status) if status.ready => (status, Ok(())),
        Ok(status) => (status, Err(Failure::told().into())),
        Err(error) if Failure::code_of(&error) == ABSENT => {
            let bpf_dir = bpf_dir
                .or(file.bpf_dir)
                .unwrap_or_else(|| DEFAULT_BPF_DIR.into());
            (pinned::status(&bpf_dir)?, Err(error))
        }
        Err(error) => return Err(error),
    };
    let mut out = quiet::stdout();
    match args.output {
        LogFormat::Text => write!(out, "{status}")?,
        LogFormat::Json => writeln!(out, "{}", serde_json::to_string(&status)?)?,
    }
    out.flush()?;
    result
}

fn file_settings(config: Option<PathBuf>) -> Result<Settings, Failure> {
    config.map_or_else(
        || Ok(Settings::default()),
        |path| Settings::from_file(&path),
    )
}

/// clap's message as one line: what is wrong and its tip, without the usage block.
fn usage_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let message = text.split("\nUsage:").next().unwrap_or_default();
    let message = message
        .split("\nFor more information")
        .next()
        .unwrap_or_default();
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    format!(
        "{}; see egress-agent --help",
        line.trim_start_matches("error: ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_usage_error_is_one_line_with_its_tip() {
        let error = Cli::try_parse_from(["egress-agent", "run", "--cgroups", "/x"]).unwrap_err();
        let line = usage_line(&error);
        assert!(
            !line.contains('\n') && line.contains("--cgroups") && line.contains("'--cgroup'"),
            "{line}"
        );
    }

    #[test]
    fn flags_reach_their_fields() {
        let cli = Cli::try_parse_from([
            "egress-agent",
            "run",
            "--rules",
            "a.yaml",
            "--rules",
            "b",
            "--cgroup",
            "/x",
            "--dns-server",
            "192.0.2.1",
            "--dns-min-ttl",
            "1s",
            "--log-format",
            "json",
            "--on-exit",
            "detach",
            "--outbound-traffic-policy",
            "ALLOW_ANY",
            "--allow-private-answers",
        ])
        .unwrap();
        let Verb::Run(args) = cli.verb else {
            panic!("{cli:?}")
        };
        let file = "rules: [a.yaml, b]\ncgroups: [/x]\ndns: {servers: [192.0.2.1], minTTL: 1s}\n\
                    log: {format: json}\nonExit: detach\noutboundTrafficPolicy: ALLOW_ANY\nallowPrivateAnswers: true\n";
        assert_eq!(args.settings, serde_yaml::from_str(file).unwrap());
    }
}
