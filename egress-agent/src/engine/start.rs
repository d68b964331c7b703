//! The engine's start: the first rules, and those of the previous agent if they do not fit.

use super::Engine;
use crate::kernel::NoRoom;
use crate::namespaces::Services;
use crate::sockets::SocketFactory;
use crate::sources::{Objects, RuleSet};
use crate::timer::until;
use egress_core::istio::Object;
use std::sync::Arc;
use std::time::Instant;

impl Engine {
    /// Takes the existing workloads and the first rules, asks for every name in them and writes the
    /// tables. The rules of a previous agent stay in force until each name has an answer or a failure, or
    /// time is up, so that a destination that both list is not denied in between. Without such rules, the
    /// new ones are in force almost at once, and names are added as they are answered. If the tables have
    /// no room for the rules, those of the previous agent are used, or none.
    ///
    /// The proxy's listeners are opened first: in the agent's own namespace and in those of the workloads.
    /// Redirected flows wait in their queues. `previous_stops` returns when a previous agent, if there is
    /// one, no longer judges flows by the present tables.
    pub async fn begin(
        &mut self,
        rules: &RuleSet,
        sockets: &Arc<SocketFactory>,
        services: Services,
        previous_stops: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let told = self.placing.workloads.next().await?;
        self.placing.hear(&mut self.state, told);
        self.placing.open(Arc::clone(sockets), services).await?;
        let objects = rules.objects.to_vec();
        if self.state.lists_nothing() {
            self.questions.ask_ahead(&objects);
        }
        self.state.handle_rules(Instant::now(), &objects);
        self.shown.set_rules(rules);
        self.lease_file.restore(&mut self.state);
        self.questions.ask(&mut self.state);
        self.wait_for_answers().await;
        previous_stops.await?;
        self.placing.take_up()?;
        match self.begin_with(None) {
            Ok(()) => self.in_force.begin(rules),
            Err(full) => self.give_way(rules, &full)?,
        }
        self.flush(true)
    }

    /// Waits for the first answers as [`Self::begin`] says. Answers `status` and `explain` during the
    /// wait.
    async fn wait_for_answers(&mut self) {
        let deadline = Instant::now() + self.first_answers.begin(&self.state);
        // The loop checks the clock too: while answers come without a pause, the timer may never get its
        // turn.
        while self.first_answers.due().is_some() && Instant::now() < deadline {
            tokio::select! {
                replies = self.questions.replies() => {
                    self.answer(replies);
                    self.questions.ask(&mut self.state);
                }
                Some(ask) = self.news.asks.recv() => self.reply(ask),
                () = until(Some(deadline)) => break,
            }
        }
        if self.first_answers.are_late() {
            self.first_answers.give_up(&self.state);
        }
    }

    /// Puts the first rules, or `instead`, in force if the tables have room.
    fn begin_with(&mut self, instead: Option<&[Arc<Object>]>) -> Result<(), NoRoom> {
        let now = Instant::now();
        if let Some(objects) = instead {
            self.state.handle_rules(now, objects);
        }
        let plan = self.state.begin(now);
        self.placing.fits(&plan)?;
        plan.commit();
        Ok(())
    }

    /// At the start, if the rules do not fit: uses the rules of the previous agent, or none.
    fn give_way(&mut self, rules: &RuleSet, full: &NoRoom) -> anyhow::Result<()> {
        let instead = "those of the previous agent are in force, or none";
        let problem = self.shown.does_not_fit(full, instead);
        for objects in [&rules.previous[..], &[]] {
            if self.begin_with(Some(objects)).is_ok() {
                let objects = Objects::kept(objects.iter().cloned());
                self.shown.set_objects(&objects);
                self.in_force.fall_back(objects, problem);
                return Ok(());
            }
        }
        anyhow::bail!("the tables have no room for an empty rule set")
    }
}
