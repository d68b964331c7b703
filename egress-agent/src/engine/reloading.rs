//! The engine's part with a config that changed: what of it the rules and the workloads must know.

use super::{Engine, settings};
use crate::config::Config;
use std::time::Instant;

impl Engine {
    /// Goes on under another config, all of it or, where the tables have no room, none.
    pub(super) fn reload(&mut self, config: &Config) -> anyhow::Result<()> {
        let before = self.state.clone();
        self.state.handle_settings(Instant::now(), settings(config));
        let ops = self.state.poll_ops();
        if let Err(full) = self.tables.fits(&ops) {
            self.state = before;
            tracing::error!(%full, "config not applied: the tables have no room; the previous one stays in force");
            return Ok(());
        }
        self.shown.mode = format!("{:?}", config.mode).to_lowercase();
        self.news.canaries.expect_errno(config.deny_errno);
        self.moved = true;
        self.carry_out(&ops)?;
        let told = self.workloads.rename(config.workloads.clone());
        self.hear(told);
        let ops = self.state.poll_ops();
        self.carry_out(&ops)?;
        self.ending.end_unlisted();
        tracing::info!("config applied");
        Ok(())
    }
}
