//! The engine's part with a config that changed: what of it the rules and the workloads must know.

use super::{Engine, settings};
use crate::config::Config;
use std::time::Instant;

impl Engine {
    /// Goes on under another config, all of it or, where the tables have no room, none.
    pub(super) fn reload(&mut self, config: &Config) -> anyhow::Result<()> {
        let plan = self.state.plan_settings(Instant::now(), settings(config));
        if let Err(full) = self.tables.fits(plan.ops()) {
            drop(plan);
            tracing::error!(%full, "config not applied: the tables have no room for it; the previous config stays in force");
            return Ok(());
        }
        plan.commit();
        let ops = self.state.poll_ops();
        self.noted.mode = config.mode;
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
