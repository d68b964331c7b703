//! The status as text for people: problems first, then what is in force, without zeros. `-o json` has
//! every field and every counter.

use super::status::{Status, WorkloadStatus};
use crate::config::{Intercept, Mode};
use crate::dns::ServerState;
use crate::in_use::InUse;
use crate::kubernetes::Use;
use crate::observe::families::{Section, help};
use std::fmt::{self, Formatter};

/// The most lines of each kind; `-o json` has more.
const LINES: usize = 20;
/// The most ranges of one use in a line.
const SHOWN_NETS: usize = 6;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The status to print.
    pub status: &'a Status,
    /// Whether to print the counters, the versions and how full the tables are.
    pub verbose: bool,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.readiness(f)?;
        self.wrong(f)?;
        self.in_force(f)?;
        if self.verbose {
            self.details(f)?;
        }
        Ok(())
    }
}

impl Text<'_> {
    fn readiness(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let s = self.status;
        for why in &s.troubles {
            line(f, "NOT READY", why)?;
        }
        match (&s.trouble, s.ready) {
            (Some(_), _) if !s.troubles.is_empty() => {}
            (Some(why), _) => line(f, "NOT READY", why)?,
            (None, true) if audits(s) => {
                line(
                    f,
                    "ready",
                    "the gate is in place, audits and denies nothing",
                )?;
            }
            (None, true) => line(f, "ready", "the gate is closed")?,
            (None, false) => line(f, "NOT READY", "not proven yet")?,
        }
        if let Some(age) = s.canary_age_seconds {
            line(f, "canary", format_args!("last passed {age:.1} s ago"))?;
        }
        Ok(())
    }

    /// What name servers leave open, and those that cannot be asked.
    fn name_servers(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let dns = &self.status.dns;
        for server in &dns.servers {
            if let Some(why) = &server.failing {
                let text = format_args!("{} cannot be asked: {why}", server.server);
                line(f, "dns server", text)?;
            }
        }
        // No workload may connect to a server over TLS.
        let over_tls = |s: &ServerState| s.server.starts_with("tls://");
        let encrypted = !dns.servers.is_empty() && dns.servers.iter().all(over_tls);
        if self.status.running && dns.intercept == Intercept::Off && !encrypted {
            let text = "port 53 of the name servers in dns.servers: queries are not filtered, so workloads can tunnel data through them; dns.intercept: auto closes that";
            line(f, "open", text)?;
        }
        Ok(())
    }

    /// The problems: whatever makes the gate deny or allow more than the rules say.
    fn wrong(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let r = &self.status.rules;
        for gap in &self.status.kernel.gaps {
            line(f, "open", gap)?;
        }
        self.name_servers(f)?;
        if !self.status.kernel.neighbours.is_empty() {
            let names = self.status.kernel.neighbours.join(", ");
            let text = "other programs that run with the gate's; if they translate service addresses, `internal` must also list the addresses of the pods behind them";
            line(f, "beside", format_args!("{names}: {text}"))?;
        }
        if let Some(problem) = &r.problem {
            line(f, "problem", problem)?;
        }
        let first = r.problem.as_deref().unwrap_or_default();
        let others = r.problems.iter().filter(|p| !first.starts_with(p.as_str()));
        for problem in others.take(LINES) {
            line(f, "problem", problem)?;
        }
        for kind in &self.status.kubernetes {
            if let (Some(seconds), Some(problem)) = (kind.away_seconds, &kind.problem) {
                let (name, objects) = (&kind.kind, kind.objects);
                let known = if kind.synced {
                    format!("the {objects} known ones stay in force")
                } else {
                    "none is known yet".to_owned()
                };
                let text =
                    format_args!("{name} not followed for {seconds:.0} s, {known}: {problem}");
                line(f, "kubernetes", text)?;
            }
        }
        if r.names_without_address > 0 {
            let text = "listed names have no address yet, and are denied until they have one";
            let (without, all) = (r.names_without_address, r.names);
            line(f, "names", format_args!("{without} of {all} {text}"))?;
        }
        for (name, why) in r.failing.iter().take(LINES) {
            line(f, "failing", format_args!("{name}: {why}"))?;
        }
        if r.failing.len() > LINES {
            let more = r.failing.len() - LINES;
            line(f, "failing", format_args!("and {more} names more"))?;
        }
        if let Some(first) = &r.too_deep.first {
            let count = r.too_deep.cgroups;
            line(
                f,
                "too deep",
                format_args!(
                    "{count} cgroups are nested deeper than the kernel judges, and denied (cgroup-depth): {first}"
                ),
            )?;
        }
        if r.without_policy > 0 {
            let text = "workloads are denied everything: they need more different policies than the kernel has";
            line(f, "no policy", format_args!("{} {text}", r.without_policy))?;
        }
        if let Some(left_out) = r.counters.get("leftOut").filter(|count| **count > 0) {
            let text = "addresses of listed names found no room in the tables, and are denied";
            line(f, "table full", format_args!("{left_out} {text}"))?;
        }
        if let Some(lost) = self
            .status
            .proxy
            .get("accessLogLost")
            .filter(|count| **count > 0)
        {
            let text = "lines were lost, because the file could not be written in time or at all";
            line(f, "access log", format_args!("{lost} {text}"))?;
        }
        for refused in self.status.cluster.iter().flat_map(|c| &c.refused) {
            let text = "; it is not allowed: add it to `internal` if it is meant";
            line(f, "cluster", format_args!("{refused}{text}"))?;
        }
        if self
            .status
            .cluster
            .as_ref()
            .is_some_and(|c| !c.found.contains_key(&Use::Pods))
        {
            let text =
                "no range of pods was found: add it to `internal`, or pods cannot reach each other";
            line(f, "cluster", text)?;
        }
        for (word, lines) in [("finding", &r.findings), ("note", &r.notes)] {
            for text in lines.iter().take(LINES) {
                line(f, word, text)?;
            }
        }
        Ok(())
    }

    fn in_force(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (s, r) = (self.status, &self.status.rules);
        for root in &s.roots {
            line(f, "root", root)?;
        }
        if s.running {
            let text = format_args!("{} objects, mode {}", r.objects, r.mode);
            line(f, "rules", text)?;
        }
        for kind in s.kubernetes.iter().filter(|kind| kind.synced) {
            let text = format_args!("{} {}", kind.objects, kind.kind);
            line(f, "kubernetes", text)?;
        }
        for (of, nets) in s.cluster.iter().flat_map(|cluster| &cluster.found) {
            let shown = nets.iter().take(SHOWN_NETS).map(ToString::to_string);
            let shown = shown.collect::<Vec<_>>().join(" ");
            let more = nets.len().saturating_sub(SHOWN_NETS);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            line(f, "allowed", format_args!("{of}: {shown}{more}"))?;
        }
        for (word, key) in [("denied", "denied"), ("would deny", "wouldDeny")] {
            let [kernel, proxy] =
                [&s.counters, &s.proxy].map(|all| all.get(key).copied().unwrap_or_default());
            if kernel + proxy > 0 {
                let text = format_args!("{kernel} by the kernel, {proxy} by the proxy");
                line(f, word, text)?;
            }
        }
        for w in &s.workloads {
            let identity = w.identity.as_deref().unwrap_or("unnamed");
            let mode = w
                .mode
                .map_or(String::new(), |mode| format!(", mode {mode}"));
            let (served, all) = (w.proxied, w.network_namespaces);
            let missing = if served < all {
                format!(", proxy in {served} of {all} network namespaces")
            } else {
                String::new()
            };
            let place = self.place(w);
            line(
                f,
                "workload",
                format_args!("{identity} {place}{mode}{missing}"),
            )?;
        }
        Ok(())
    }

    /// A pod by its names, anything else by the path of its cgroup.
    fn place(&self, workload: &WorkloadStatus) -> String {
        let Some(pod) = &workload.pod_name else {
            return workload.cgroup.clone();
        };
        let container = workload.container_name.as_ref();
        let container = container.map_or(String::new(), |name| format!(" container {name}"));
        let owner = workload.owner.as_ref();
        let owner = owner.map_or(String::new(), |owner| format!(" ({owner})"));
        let cgroup = if self.verbose {
            format!(" {}", workload.cgroup)
        } else {
            String::new()
        };
        format!("pod {pod}{container}{owner}{cgroup}")
    }

    fn details(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (s, r) = (self.status, &self.status.rules);
        let adopted = if s.adopted { ", adopted maps" } else { "" };
        let text = format_args!("{} (abi {}{adopted})", s.version, s.abi);
        line(f, "agent", text)?;
        line(f, "kernel", &s.kernel.release)?;
        line(f, "generation", r.generation)?;
        for (name, InUse { used, limit }, unit) in [
            ("policies", r.policies, ""),
            ("addresses", r.addresses, ""),
            ("networks", r.networks, ""),
            ("connections", s.proxy_use.connections, " through the proxy"),
            ("descriptors", s.proxy_use.descriptors, " of the proxy"),
            ("memory", s.proxy_use.memory, " bytes of the proxy"),
            ("pipes", s.proxy_use.pipes, " of the proxy"),
        ] {
            line(f, name, format_args!("{used} of {limit}{unit}"))?;
        }
        if r.allocated.limit > 0 {
            let InUse { used, limit } = r.allocated;
            line(f, "allocated", format_args!("{used} of {limit} hosts"))?;
        }
        for (section, name, counters) in [
            (Section::Counters, "counters", &s.counters),
            (Section::Rules, "rules", &r.counters),
            (Section::Proxy, "proxy", &s.proxy),
            (Section::Agent, "agent", &s.agent),
        ] {
            for (key, count) in counters {
                let help = help(section, key).unwrap_or_default();
                writeln!(f, "{name:<11} {key:<10} {count:>12}  {help}")?;
            }
        }
        Ok(())
    }
}

/// Whether no workload is denied anything.
fn audits(status: &Status) -> bool {
    let enforced = |w: &WorkloadStatus| w.mode == Some(Mode::Enforce);
    status.rules.mode == Mode::Audit && !status.workloads.iter().any(enforced)
}

fn line(f: &mut Formatter<'_>, word: &str, text: impl fmt::Display) -> fmt::Result {
    writeln!(f, "{word:<11} {text}")
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
