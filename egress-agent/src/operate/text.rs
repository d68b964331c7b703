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
mod tests {
    use super::*;
    use crate::operate::status::FollowedStatus;

    fn short(status: &Status) -> String {
        let verbose = false;
        Text { status, verbose }.to_string()
    }

    #[test]
    fn readiness_is_the_first_line() {
        let mut status = Status::default();
        assert_eq!(short(&status), "NOT READY   not proven yet\n");
        status.ready = true;
        assert_eq!(short(&status), "ready       the gate is closed\n");
        status.rules.mode = Mode::Audit;
        assert!(short(&status).starts_with("ready       the gate is in place, audits"));
        status.workloads.push(WorkloadStatus {
            mode: Some(Mode::Enforce),
            ..WorkloadStatus::default()
        });
        assert!(short(&status).starts_with("ready       the gate is closed\n"));
        status.trouble = Some("an unlisted connect went through".into());
        assert!(short(&status).starts_with("NOT READY   an unlisted connect went through\n"));
    }

    #[test]
    fn what_unfiltered_queries_leave_open_is_said() {
        let status = Status {
            running: true,
            ..Status::default()
        };
        let text = short(&status);
        let open = text.lines().find(|line| line.starts_with("open"));
        assert!(open.unwrap().contains("dns.intercept: auto"), "{text}");
    }

    #[test]
    fn a_name_server_over_tls_opens_nothing_and_is_shown_when_it_fails() {
        let mut status = Status {
            running: true,
            ..Status::default()
        };
        let server = |server: &str, failing: Option<&str>| ServerState {
            server: server.to_owned(),
            failing: failing.map(str::to_owned),
        };
        let tls = "tls://192.0.2.53:853#dns.example";
        status.dns.servers = vec![server(tls, None)];
        let text = short(&status);
        assert!(!text.contains("open") && !text.contains(tls), "{text}");
        let failing = server(tls, Some("its certificate has expired"));
        status.dns.servers = vec![failing, server("192.0.2.53:53", None)];
        let text = short(&status);
        let line = format!("dns server  {tls} cannot be asked: its certificate has expired\n");
        assert!(text.contains(&line) && text.contains("open "), "{text}");
    }

    #[test]
    fn what_is_wrong_comes_before_what_is_in_force_and_zeros_are_left_out() {
        let mut status = Status {
            running: true,
            ready: true,
            roots: vec!["/sys/fs/cgroup/pods".into()],
            canary_age_seconds: Some(1.25),
            ..Status::default()
        };
        status.dns.intercept = Intercept::Auto;
        status.rules.objects = 3;
        for key in ["denied", "wouldDeny"] {
            status.counters.insert(key.into(), 0);
            status.proxy.insert(key.into(), 0);
        }
        status.rules.counters.insert("leftOut".into(), 0);
        assert_eq!(
            short(&status),
            "ready       the gate is closed\n\
             canary      last passed 1.2 s ago\n\
             root        /sys/fs/cgroup/pods\n\
             rules       3 objects, mode enforce\n"
        );
        status.proxy.insert("denied".into(), 2);
        status.rules.counters.insert("leftOut".into(), 4);
        status.rules.without_policy = 1;
        let failing = &mut status.rules.failing;
        failing.insert("a.example".into(), "no such name".into());
        status.rules.too_deep.cgroups = 2;
        status.rules.too_deep.first = Some("/pods/a".into());
        let text = short(&status);
        let words: Vec<&str> = text.lines().map(|line| line[..11].trim_end()).collect();
        assert_eq!(
            words,
            [
                "ready",
                "canary",
                "failing",
                "too deep",
                "no policy",
                "table full",
                "root",
                "rules",
                "denied"
            ]
        );
        assert!(
            text.contains("denied      0 by the kernel, 2 by the proxy\n"),
            "{text}"
        );
        assert!(text.contains("(cgroup-depth): /pods/a\n"), "{text}");
    }

    #[test]
    fn a_pod_is_shown_by_its_names_and_its_cgroup_on_request() {
        let mut status = Status::default();
        status.workloads.push(WorkloadStatus {
            cgroup: "/kubepods/pod1".into(),
            identity: Some("shop/client".into()),
            pod_name: Some("shop/client-5d4f-x".into()),
            owner: Some("Deployment/client".into()),
            mode: Some(Mode::Audit),
            ..WorkloadStatus::default()
        });
        let pod = "workload    shop/client pod shop/client-5d4f-x (Deployment/client)";
        assert!(
            short(&status).contains(&format!("{pod}, mode audit\n")),
            "{}",
            short(&status)
        );
        let verbose = Text {
            status: &status,
            verbose: true,
        }
        .to_string();
        assert!(
            verbose.contains(&format!("{pod} /kubepods/pod1, mode audit\n")),
            "{verbose}"
        );
    }

    #[test]
    fn a_kind_that_is_not_followed_is_a_problem_with_its_age() {
        let mut status = Status::default();
        status.kubernetes.push(FollowedStatus {
            kind: "pods".into(),
            synced: true,
            objects: 7,
            away_seconds: Some(12.3),
            problem: Some("access denied".into()),
            ..FollowedStatus::default()
        });
        let text = short(&status);
        let line = "kubernetes  pods not followed for 12 s, the 7 known ones stay in force: access denied\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("kubernetes  7 pods\n"), "{text}");
    }

    #[test]
    fn counters_come_with_their_meaning_where_they_are_asked_for() {
        let mut status = Status::default();
        status.counters.insert("eventsLost".into(), 0);
        let text = Text {
            status: &status,
            verbose: true,
        };
        let text = text.to_string();
        let line = text.lines().last().unwrap_or_default();
        assert!(
            line.starts_with("counters    eventsLost            0  Denials whose event"),
            "{text}"
        );
        assert!(!short(&status).contains("eventsLost"));
    }
}
