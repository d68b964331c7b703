//! Root privilege for a step that needs it: that of the process, or by sudo.
//!
//! Owns how a command gets privilege. It does not decide which step needs it.

use crate::ebpf;
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

/// How this process can run a command as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// It is root.
    Root,
    /// It uses sudo, which may ask the user.
    Sudo,
}

/// The available privilege, or `None`.
pub fn find() -> Option<Privilege> {
    // The owner of /proc/self is the effective user id of this process.
    let root = fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
    if root {
        return Some(Privilege::Root);
    }
    ebpf::find_on_path("sudo").map(|_| Privilege::Sudo)
}

impl Privilege {
    /// `program` as root. sudo keeps only the environment variables that these tools read.
    pub fn command(self, program: &str) -> Command {
        match self {
            Self::Root => Command::new(program),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.args(sudo_arguments()).arg(program);
                command
            }
        }
    }

    /// The words that cargo's runner needs before a test binary.
    pub fn runner(self) -> Option<String> {
        (self == Self::Sudo).then(|| format!("sudo {}", sudo_arguments().join(" ")))
    }
}

/// The arguments of sudo before the program: which variables and which PATH to keep.
fn sudo_arguments() -> Vec<String> {
    let path = env::var("PATH").unwrap_or_default();
    // The settings of the suites all have the same prefix.
    let own = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let own = own.filter(|name| name.starts_with("EGRESS_"));
    let kept: Vec<String> = ["RUST_BACKTRACE", "RUST_LOG", "CI", "CARGO_TARGET_TMPDIR"]
        .map(str::to_owned)
        .into_iter()
        .chain(own)
        .collect();
    vec![
        format!("--preserve-env={}", kept.join(",")),
        "--".to_owned(),
        "env".to_owned(),
        format!("PATH={path}"),
    ]
}
