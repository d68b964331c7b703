//! Loads, follows and reports Istio's resources, of files and of the Kubernetes API, as a rule set.
//!
//! Owns the log lines about rules. `loader` decides what is in force; `store` keeps the rules over a
//! restart.

use super::files::Reading;
use super::follow::{Compiled, Feed, Sources, follow};
use super::loader::Loader;
use super::objects::Objects;
use super::rule_set::{Findings, Line, RuleSet};
use super::store;
use crate::failure::Failure;
use crate::secret_store::{SecretStore, Source};
use egress_core::istio::{CredentialName, Spec};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// The most lines that one load logs; `egress-agent check` shows all.
const LOGGED: usize = 100;

/// Loads the rules and follows them; see [`follow`]. `store` has the last good rules of the previous agent, and
/// `secrets` gets the Secrets of the files. Fails if a path does not exist, but not for the content of files.
pub fn follow_rules(
    sources: &Sources,
    store: &Path,
    root_namespace: &str,
    secrets: &Arc<SecretStore>,
) -> Result<(Feed<RuleSet>, impl Future<Output = ()> + Send + use<>), Failure> {
    let mut loader = Some(Loader::restoring(store::read(store)));
    let mut last = Objects::default();
    let mut told = Told::default();
    let (secrets, api) = (Arc::clone(secrets), sources.api.clone());
    let compile = move |reading: &Reading, most: usize| {
        // A loader that panicked is not used again, because it may have applied half of a change.
        let own = loader.take();
        let mut own = own.unwrap_or_else(|| Loader::after(last.to_vec()));
        let rules = own.load_some(reading, most);
        let waits = own.waits();
        loader = Some(own);
        if let Some(rules) = &rules {
            last = rules.objects.clone();
            secrets.publish(Source::Files, rules.secrets.clone());
            if let Some(api) = &api {
                api.want_secrets(named_secrets(&last));
            }
            told.tell(rules);
        }
        Compiled {
            problem: rules.as_ref().and_then(RuleSet::problem),
            set: rules,
            waits,
        }
    };
    let (mut told, mut findings) = (BTreeSet::new(), Findings::new(root_namespace));
    let after = move |rules: &RuleSet| {
        let findings = findings.of(rules);
        tell_new(&mut told, findings, |line| tracing::warn!("{line}"));
    };
    follow(sources, compile, after)
}

/// The Secrets and ConfigMaps that rules in force name.
fn named_secrets(objects: &Objects) -> BTreeSet<CredentialName> {
    let mut named = BTreeSet::new();
    for object in objects.iter() {
        if let Some(Spec::DestinationRule(rule)) = &object.spec {
            let of_rule = |name| CredentialName::of_rule(name, &object.meta.namespace);
            named.extend(rule.credential_names().filter_map(of_rule));
        }
    }
    named
}

/// The rule set of the files for an agent without earlier versions.
pub fn compile(reading: &Reading) -> RuleSet {
    Loader::default().load(reading)
}

/// Lines of the last load.
#[derive(Debug, Default)]
struct Told {
    problems: BTreeSet<Line>,
    notes: BTreeSet<Line>,
}

impl Told {
    fn tell(&mut self, rules: &RuleSet) {
        let were = !self.problems.is_empty();
        tell_new(&mut self.problems, &rules.problems, |line| {
            tracing::error!(problem = line, "rule not applied");
        });
        if were && rules.problems.is_empty() {
            tracing::info!("the rules are valid again");
        }
        tell_new(&mut self.notes, &rules.notes, |line| {
            tracing::warn!("{line}");
        });
        if rules.objects.is_empty() {
            tracing::warn!("the rules are empty: every destination is denied");
        }
    }
}

/// Logs the lines that are new since the last load, and keeps the lines of this one.
fn tell_new(told: &mut BTreeSet<Line>, lines: &[Line], tell: impl Fn(&str)) {
    let new: Vec<_> = lines.iter().filter(|l| !told.contains(*l)).collect();
    for line in new.iter().take(LOGGED) {
        tell(line);
    }
    if new.len() > LOGGED {
        let more = new.len() - LOGGED;
        tell(&format!(
            "and {more} more lines on the rules: run egress-agent check"
        ));
    }
    *told = lines.iter().cloned().collect();
}

#[cfg(test)]
#[path = "rules_tests.rs"]
pub(super) mod tests;
