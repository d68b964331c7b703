//! Arguments that several verbs share: the agent's config file and admin socket.

use crate::config::{DEFAULT_ADMIN_SOCKET, Settings};
use crate::failure::Failure;
use std::path::{Path, PathBuf};

/// The flags that name the running agent's admin socket.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AdminArgs {
    /// Config file of the agent: `adminSocket`, and with `explain --rules` every setting
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Unix socket of the agent [default: /run/egress-agent.sock]
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,
}

impl AdminArgs {
    /// The config file, if one is named.
    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The agent's admin socket.
    pub fn socket(self) -> Result<PathBuf, Failure> {
        let file = file_settings(self.config)?;
        let named = self.admin_socket.or(file.admin_socket);
        Ok(named.unwrap_or_else(|| DEFAULT_ADMIN_SOCKET.into()))
    }
}

/// The settings of a config file; without a file, no settings.
pub fn file_settings(config: Option<PathBuf>) -> Result<Settings, Failure> {
    config.map_or_else(
        || Ok(Settings::default()),
        |path| Settings::from_file(&path),
    )
}
