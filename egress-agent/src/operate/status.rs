//! What the agent says about itself: one snapshot for `status`, `wait` and readiness.
//!
//! Owns the form and the words. Each part is filled in by who knows it.

use crate::workloads::TooDeep;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Everything `status` shows. Field names are part of `-o json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each a field of its own in the JSON"
)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Version of the maps' types.
    pub abi: u32,
    /// Whether an agent runs. Without one only the gate that is pinned is told of.
    pub running: bool,
    /// The kernel judged the last canary as the rules have it, below every enforced root.
    pub closed: bool,
    /// The gate is closed, its roots are where the workloads are, its pins outlive the agent, and
    /// a redirected flow reaches this agent.
    pub ready: bool,
    /// Why not, where it is not: every reason.
    pub trouble: Option<String>,
    /// The same, one by one.
    pub troubles: Vec<String>,
    /// Seconds since a canary was last judged as the rules have it.
    pub canary_age_seconds: Option<f64>,
    /// Enforced roots.
    pub roots: Vec<String>,
    /// The maps were those of an agent before this one.
    pub adopted: bool,
    /// What the kernel is and what of it cannot be closed.
    pub kernel: KernelStatus,
    /// The rules and the tables made of them.
    pub rules: RulesStatus,
    /// What the proxy refused.
    pub proxy: ProxyStatus,
    /// Cgroups below the roots that are workloads, or have network namespaces of their own.
    pub workloads: Vec<WorkloadStatus>,
    /// The programs' counters, over every agent since the maps were made.
    pub counters: BTreeMap<String, u64>,
}

/// `kernel` of [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelStatus {
    /// `uname -r`.
    pub release: String,
    /// Ways out that stay open on it, and what closes them.
    pub gaps: Vec<String>,
}

/// Lines on the rules of each kind in the text form; `-o json` has more.
const LINES: usize = 20;

/// `rules` of [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RulesStatus {
    /// `enforce` or `audit`: of workloads that have no `mode` of their own.
    pub mode: String,
    /// Resources in force.
    pub objects: usize,
    /// Why the files as they are now are not in force.
    pub problem: Option<String>,
    /// What is wrong with the files: file, line, field, reason, and what is in force instead; the
    /// first of them.
    pub problems: Vec<String>,
    /// What was skipped or is not carried out, by file, line and field; the first of them.
    pub notes: Vec<String>,
    /// What objects do together that their author may not want; the first of them.
    pub findings: Vec<String>,
    /// Generation of the kernel's policies.
    pub generation: u32,
    /// Single addresses in the tables.
    pub addresses: TableStatus,
    /// Networks in the tables.
    pub networks: TableStatus,
    /// Entries that found no room since the start; their destinations are refused.
    pub left_out: u64,
    /// Workloads that are refused everything, because their view is one more than there are
    /// policies.
    pub without_policy: u64,
    /// Cgroups that are refused everything, because they are nested deeper than the kernel judges.
    pub too_deep: TooDeep,
    /// Names whose last question failed, and why.
    pub failing: BTreeMap<String, String>,
    /// Running flows that a rules change ended since the start.
    pub flows_ended: u64,
    /// Refusals that came out of the kernel one by one since the start.
    pub events: u64,
    /// Of them, refusals without a log line, because there were too many.
    pub not_logged: u64,
}

/// `proxy` of [`Status`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// Connections and requests that it refused since the start.
    pub refused: u64,
    /// Those that it would have refused, but for a policy that audits.
    pub would_deny: u64,
    /// Of both, those of which no log line tells, because there were too many.
    pub not_logged: u64,
}

/// A cgroup below an enforced root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// Its path below the root.
    pub cgroup: String,
    /// The kernel's id.
    pub id: u64,
    /// `NAMESPACE/SERVICE-ACCOUNT`; none where nobody said who it is.
    pub identity: Option<String>,
    /// `metadata.uid` of the pod, where the path names one.
    pub pod: Option<String>,
    /// Id of the container, where the path names one.
    pub container: Option<String>,
    /// `enforce` or `audit`, where it has a mode of its own.
    pub mode: Option<String>,
    /// The policy of its own; without one, that of the cgroup above holds.
    pub policy: Option<u32>,
    /// Network namespaces of its processes other than the agent's.
    pub network_namespaces: usize,
    /// Those of them in which the proxy listens.
    pub proxied: usize,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Entries.
    pub used: usize,
    /// Most entries.
    pub limit: usize,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.rules;
        for why in &self.troubles {
            writeln!(f, "NOT READY   {why}")?;
        }
        match (&self.trouble, self.ready) {
            (Some(_), _) if !self.troubles.is_empty() => {}
            (Some(why), _) => writeln!(f, "NOT READY   {why}")?,
            (None, true) if r.mode == "audit" => {
                writeln!(f, "ready       the gate is in place, and audits")?;
            }
            (None, true) => writeln!(f, "ready       the gate is closed")?,
            (None, false) => writeln!(f, "NOT READY   not proven yet")?,
        }
        if let Some(age) = self.canary_age_seconds {
            writeln!(f, "canary      judged as the rules have it {age:.1} s ago")?;
        }
        for root in &self.roots {
            writeln!(f, "root        {root}")?;
        }
        let adopted = if self.adopted { ", adopted maps" } else { "" };
        writeln!(
            f,
            "agent       {} (abi {}{adopted})",
            self.version, self.abi
        )?;
        writeln!(f, "kernel      {}", self.kernel.release)?;
        for gap in &self.kernel.gaps {
            writeln!(f, "  open      {gap}")?;
        }
        writeln!(
            f,
            "rules       {} objects, generation {}, mode {}",
            r.objects, r.generation, r.mode
        )?;
        if let Some(problem) = &r.problem {
            writeln!(f, "  problem   {problem}")?;
        }
        let first = r.problem.as_deref().unwrap_or_default();
        let others = r.problems.iter().filter(|p| !first.starts_with(p.as_str()));
        for (word, lines) in [
            ("problem", others.collect::<Vec<_>>()),
            ("finding", r.findings.iter().collect()),
            ("note", r.notes.iter().collect()),
        ] {
            for line in lines.into_iter().take(LINES) {
                writeln!(f, "  {word:<9} {line}")?;
            }
        }
        if let Some(first) = &r.too_deep.first {
            let count = r.too_deep.cgroups;
            writeln!(
                f,
                "  too deep  {count} cgroups are nested deeper than the kernel judges, and denied (cgroup-depth): {first}"
            )?;
        }
        for (name, table) in [("addresses", r.addresses), ("networks", r.networks)] {
            writeln!(f, "  {name:<9} {} of {}", table.used, table.limit)?;
        }
        for (name, why) in &r.failing {
            writeln!(f, "  failing   {name}: {why}")?;
        }
        for (name, count) in [
            ("left out", r.left_out),
            ("closed", r.without_policy),
            ("ended", r.flows_ended),
            ("events", r.events),
            ("unlogged", r.not_logged),
        ] {
            writeln!(f, "  {name:<9} {count}")?;
        }
        let p = &self.proxy;
        writeln!(f, "proxy")?;
        for (name, count) in [
            ("refused", p.refused),
            ("audited", p.would_deny),
            ("unlogged", p.not_logged),
        ] {
            writeln!(f, "  {name:<9} {count}")?;
        }
        for w in &self.workloads {
            let identity = w.identity.as_deref().unwrap_or("unknown");
            let policy = w.policy.map_or("of the root".to_owned(), |p| p.to_string());
            let (proxied, all) = (w.proxied, w.network_namespaces);
            let cgroup = &w.cgroup;
            let mode = w
                .mode
                .as_deref()
                .map_or(String::new(), |m| format!(" ({m})"));
            writeln!(
                f,
                "workload    {identity}, policy {policy}{mode}, proxy in {proxied} of {all} namespaces: {cgroup}"
            )?;
        }
        writeln!(f, "counters")?;
        self.counters
            .iter()
            .try_for_each(|(name, count)| writeln!(f, "  {name:<11} {count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_comes_first() {
        let mut status = Status::default();
        assert!(status.to_string().starts_with("NOT READY   not proven yet"));
        status.ready = true;
        assert!(
            status
                .to_string()
                .starts_with("ready       the gate is closed")
        );
        status.rules.mode = "audit".into();
        assert!(
            status
                .to_string()
                .starts_with("ready       the gate is in place, and audits")
        );
        status.trouble = Some("an unlisted connect went through".into());
        status
            .rules
            .failing
            .insert("a.example".into(), "no such name".into());
        status.rules.too_deep.cgroups = 2;
        status.rules.too_deep.first = Some("/pods/a".into());
        let text = status.to_string();
        assert!(
            text.contains("  too deep  2 cgroups") && text.contains("(cgroup-depth): /pods/a\n"),
            "{text}"
        );
        assert!(
            text.starts_with("NOT READY   an unlisted connect"),
            "{text}"
        );
        assert!(text.contains("failing   a.example: no such name"), "{text}");
    }

    #[test]
    fn json_names_are_camel_case_and_come_back() {
        let status = Status {
            canary_age_seconds: Some(1.5),
            ..Status::default()
        };
        let json = serde_json::to_string(&status).unwrap();
        assert!(
            json.contains("\"canaryAgeSeconds\":1.5") && json.contains("\"flowsEnded\":0"),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
