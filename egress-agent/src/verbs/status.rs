//! `egress-agent status`: the state of a running agent, or of the pinned gate without one.

use super::args::{AdminArgs, file_settings};
use super::quiet;
use crate::config::{DEFAULT_BPF_DIR, LogFormat};
use crate::failure::{ABSENT, Failure};
use crate::operate::text::Text;
use crate::operate::{client, pinned};
use std::io::Write as _;
use std::path::PathBuf;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Without an agent: where the gate is pinned [default: /sys/fs/bpf/egress-agent]
    #[arg(long, value_name = "PATH")]
    bpf_dir: Option<PathBuf>,
    /// Also show every counter, the versions, how full the tables are and what the proxy has in use
    #[arg(short, long)]
    verbose: bool,
    /// Output format; JSON has every field
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: LogFormat,
}

/// The verb.
pub fn run(args: StatusArgs) -> anyhow::Result<()> {
    let bpf_dir = args.bpf_dir;
    let file = file_settings(args.admin.config.clone())?;
    let socket = args.admin.socket()?;
    let (status, result) = match client::ask(&socket) {
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
        LogFormat::Text => write!(
            out,
            "{}",
            Text {
                status: &status,
                verbose: args.verbose
            }
        )?,
        LogFormat::Json => writeln!(out, "{}", serde_json::to_string(&status)?)?,
    }
    out.flush()?;
    result
}
