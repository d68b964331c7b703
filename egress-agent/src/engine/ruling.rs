//! Which rules are in force: new ones, those that they give way to where they do not fit, and the
//! copy on disk for the next agent. What a rule means is the state machine's.

use super::Engine;
use crate::kernel::NoRoom;
use crate::sources::{RuleSet, store};
use egress_core::istio::Object;
use egress_core::policy::diff::TableOp;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Lines on the rules that `status` shows, of problems, notes and findings each; the log had all of
/// them.
const SHOWN: usize = 100;

/// The file in which the rules in force outlive the agent.
pub(super) struct RulesFile {
    path: PathBuf,
    /// Number of the latest set.
    latest: Arc<AtomicU64>,
    /// One write at a time.
    writing: Arc<Mutex<()>>,
}

impl RulesFile {
    /// That of an agent with this admin socket. Reads nothing.
    pub(super) fn beside(admin_socket: &Path) -> Self {
        Self {
            path: store::beside(admin_socket),
            latest: Arc::default(),
            writing: Arc::default(),
        }
    }

    /// Writes a set, unless a later one comes before it is its turn.
    fn keep(&self, objects: Vec<Arc<Object>>) {
        let own = self.latest.fetch_add(1, Ordering::Relaxed) + 1;
        let (latest, writing) = (Arc::clone(&self.latest), Arc::clone(&self.writing));
        let path = self.path.clone();
        // 10 000 rules take long enough to hold up the engine.
        tokio::task::spawn_blocking(move || {
            let _turn = writing.lock().unwrap_or_else(PoisonError::into_inner);
            if latest.load(Ordering::Relaxed) != own {
                return;
            }
            if let Err(error) = store::write(&path, &objects) {
                let (file, error) = (path.display(), format!("{error:#}"));
                tracing::warn!(%file, error, "cannot store the rules for the next agent");
            }
        });
    }
}

impl Engine {
    /// Puts new rules in force, all of them or, where the tables have no room, none.
    pub(super) fn take(&mut self, rules: &RuleSet) -> anyhow::Result<()> {
        let plan = self.state.plan_rules(Instant::now(), &rules.objects);
        if let Err(full) = self.tables.fits(plan.ops()) {
            drop(plan);
            self.does_not_fit(&full, "the last good ones stay in force");
            return Ok(());
        }
        plan.commit();
        let ops = self.state.poll_ops();
        self.show(rules);
        self.keep_rules(rules);
        self.announce = Some(rules.objects.len());
        self.moved = true;
        self.carry_out(&ops)?;
        if ops
            .iter()
            .any(|op| matches!(op, TableOp::SetPolicy(..) | TableOp::DeletePolicy(_)))
        {
            self.ending.end_unlisted();
        }
        Ok(())
    }

    /// At the start, for rules that do not fit: what the previous agent had in force, or nothing.
    pub(super) fn give_way(&mut self, rules: &RuleSet, full: &NoRoom) -> anyhow::Result<()> {
        self.does_not_fit(full, "those of the previous agent are in force, or none");
        for objects in [&rules.previous[..], &[]] {
            let now = Instant::now();
            self.state.handle_rules(now, objects);
            self.noted.objects = objects.len();
            let plan = self.state.begin(now);
            if self.tables.fits(plan.ops()).is_ok() {
                plan.commit();
                return Ok(());
            }
        }
        anyhow::bail!("the tables have no room for an empty rule set")
    }

    fn does_not_fit(&mut self, full: &NoRoom, instead: &str) {
        let problem = format!("the rules do not fit: {full}; {instead}");
        tracing::error!(problem, "rules not applied");
        self.noted.problem = Some(problem);
    }

    /// Writes the rules in force for the next agent.
    pub(super) fn keep_rules(&self, rules: &RuleSet) {
        self.rules_file.keep(rules.objects.clone());
    }

    /// These rules are what `status` tells of.
    pub(super) fn show(&mut self, rules: &RuleSet) {
        self.noted.objects = rules.objects.len();
        self.noted.problems = rules.problems.iter().take(SHOWN).cloned().collect();
        self.noted.notes = rules.notes.iter().take(SHOWN).cloned().collect();
        self.noted.problem = None;
        self.findings = Arc::clone(&rules.findings);
    }

    /// Findings across the objects in force, as far as they are there.
    pub(super) fn findings(&self) -> Vec<String> {
        let found = self.findings.get().into_iter().flatten();
        found.take(SHOWN).cloned().collect()
    }
}
