//! The command line: parses it, calls the verb, and turns an error into one line and an exit code.

use crate::config::reload::Source;
use crate::config::{Config, Essentials, Settings};
use crate::failure::{Failure, USAGE};
use crate::kernel::canary;
use crate::observe::log;
use crate::verbs::{boot_unit, check, close, detach, exec, explain, quiet, status, wait};
use crate::{app, privilege, terminal};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Denies connections from a cgroup unless Istio's rules list them.
#[derive(Debug, Parser)]
#[command(
    name = "egress-agent",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent: close the gate around the enforced roots and apply the rules
    Run(Box<RunArgs>),
    /// Close the gate around the enforced roots without rules, test it and exit; a later agent adopts it.
    /// Does not change a gate that is already closed
    Close(close::CloseArgs),
    /// Run a command behind the gate, in a fresh cgroup below an enforced root
    Exec(exec::ExecArgs),
    /// Validate the rules in files and folders
    Check {
        /// Files and folders
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Output format
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: check::Output,
        /// Exit with 2 also if a field is not carried out or a port is open to any address
        #[arg(long)]
        strict: bool,
    },
    /// Show the gate's verdict on a destination, and the rule for it; exit 1 if denied
    Explain(explain::Asked),
    /// Show the state of the running agent, or of the pinned gate without one; exit 0 if ready, 1 if
    /// not, 69 if no agent runs, 77 if permission is missing
    Status(status::StatusArgs),
    /// Wait until a running agent is ready
    Wait(wait::WaitArgs),
    /// Open the gate: detach every program and remove every pin
    Detach(detach::DetachArgs),
    /// Install or remove a node's unit that closes the gate before the kubelet starts
    BootUnit(boot_unit::BootUnitArgs),
    /// Wait until a cgroup is empty and remove it
    #[command(name = exec::REAPER_VERB, hide = true)]
    Reap {
        /// The cgroup's folder
        cgroup: PathBuf,
    },
    /// Try to leave from within a cgroup; the exit code says whether the kernel denied it
    #[command(name = canary::VERB, hide = true)]
    Canary {
        /// The cgroup's folder
        cgroup: PathBuf,
        /// What to try, and the expected outcome
        words: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Config file (YAML). A flag overrides the field of the same name
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Printing fails only if the reader has closed the pipe.
            drop(e.print());
            return ExitCode::SUCCESS;
        }
        Err(e) if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            drop(e.print());
            return USAGE.into();
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
        Verb::Run(args) => run(*args),
        Verb::Close(args) => close::run(args),
        Verb::Exec(args) => exec::verb(args),
        Verb::Check {
            paths,
            output,
            strict,
        } => {
            let colour = terminal::colours(&std::io::stdout());
            check::run(&paths, output, strict, colour, &mut quiet::stdout())
        }
        Verb::Explain(asked) => explain::run(asked, &mut quiet::stdout()),
        Verb::Status(args) => status::run(args),
        Verb::Wait(args) => wait::run(args),
        Verb::Detach(args) => detach::run(args),
        Verb::BootUnit(args) => boot_unit::run(&args),
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
            // A config file that became invalid since the last boot must not leave the node open.
            let known = Essentials::of(&flags, file);
            let error = close::close_for(error, &known);
            return Err(log::last_line(error.into(), known.log_format));
        }
    };
    let source = Source {
        flags,
        file: args.config,
    };
    // Checked before the agent reads cgroups and creates anything.
    let allowed = privilege::require().map_err(anyhow::Error::from);
    allowed
        .and_then(|()| app::run(&config, source))
        .map_err(|error| log::last_line(error, config.log.format))
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
