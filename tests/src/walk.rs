//! The walk through the lab: the steps of a user, the expected result of each, and the result.
//!
//! Owns the steps and their bounds. The hosts, the agent and curl are real and are in `lab`.

use crate::lab::{Family, Lab, LabOptions, host, v4, v6};
use crate::rules;
use crate::seen::{between, brief, last_header, missing_headers};
use crate::wait::{interrupted, wait_until};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::time::{Duration, Instant};

/// The rules that the user applies, by their files' names.
const HTTPBIN: (&str, &str) = ("httpbin-serviceentry.yaml", rules::HTTPBIN);
const GOOGLE: (&str, &str) = ("google.yaml", rules::GOOGLE);
const TIMEOUT: (&str, &str) = ("httpbin-timeout.yaml", rules::TIMEOUT);

/// The longest time of a denial by the kernel, including name resolution.
const AT_ONCE: Duration = Duration::from_millis(50);

/// How long a change of the rules may take until a client sees it. The promise is 200 ms, and each curl takes some
/// time.
const IN_FORCE: Duration = Duration::from_secs(2);

/// The URL that the user requests repeatedly.
const URL: &str = "http://httpbin.org/headers";

/// A name that no rule lists.
const UNLISTED: &str = "bystander.example";

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// The step's number in the lab.
    pub step: u8,
    /// What the user does.
    pub action: &'static str,
    /// What must be seen.
    pub expected: &'static str,
    /// What was seen.
    pub seen: String,
    /// Whether they agree.
    pub agreed: bool,
}

/// Walks all steps with names of one family; `show` gets each line as soon as it is known.
pub fn walk(family: Family, show: &mut dyn FnMut(&Row)) -> Result<Vec<Row>> {
    let lab = Lab::start_with(LabOptions {
        family,
        ..LabOptions::default()
    })?;
    let mut walker = Walker {
        lab,
        family,
        rows: Vec::new(),
        show,
    };
    walker.nothing_listed(0, "nothing listed", 0)?;
    walker.http_listed()?;
    walker.tls_listed()?;
    walker.no_timeout()?;
    walker.timeout()?;
    walker.all_deleted()?;
    walker.unlisted_name_at_listed_address()?;
    Ok(walker.rows)
}

struct Walker<'a> {
    lab: Lab,
    family: Family,
    rows: Vec<Row>,
    show: &'a mut dyn FnMut(&Row),
}

impl Walker<'_> {
    fn row(
        &mut self,
        step: u8,
        action: &'static str,
        expected: &'static str,
        seen: String,
        agreed: bool,
    ) {
        let row = Row {
            step,
            action,
            expected,
            seen,
            agreed,
        };
        (self.show)(&row);
        self.rows.push(row);
    }

    /// Puts a file in place, and checks until its effect is seen or [`IN_FORCE`] is over. Returns the time that it
    /// took.
    fn apply(
        &self,
        (name, text): (&str, &str),
        mut seen: impl FnMut(&Lab) -> Result<bool>,
    ) -> Result<Duration> {
        self.lab
            .write_rules(name, text)
            .with_context(|| format!("applying {name}"))?;
        self.until(&mut seen)
    }

    fn until(&self, seen: &mut dyn FnMut(&Lab) -> Result<bool>) -> Result<Duration> {
        let start = Instant::now();
        // If the effect is not seen by then, the step's own line shows that.
        let _ = wait_until("the rules are in force", IN_FORCE, || {
            seen(&self.lab).unwrap_or(true).then_some(())
        });
        if interrupted() {
            bail!("interrupted");
        }
        Ok(start.elapsed())
    }

    fn address(&self, last: u8) -> String {
        match self.family {
            Family::V6 => format!("[{}]", v6(last)),
            Family::V4 | Family::Dual => v4(last).to_string(),
        }
    }

    /// Step 5: the rules are removed, and the result is that of step 0.
    fn all_deleted(&mut self) -> Result<()> {
        let mark = self.lab.agent()?.mark();
        for (name, _) in [TIMEOUT, GOOGLE, HTTPBIN] {
            fs::remove_file(self.lab.rules_dir().join(name))?;
        }
        self.until(&mut |lab| {
            Ok(lab.curl(&[URL])?.refused() && lab.curl(&["https://www.google.com"])?.refused())
        })?;
        self.nothing_listed(5, "all rules deleted", mark)
    }

    /// Steps 0 and 5. The log since `mark` must have the reason.
    fn nothing_listed(&mut self, step: u8, action: &'static str, mark: usize) -> Result<()> {
        for (url, last, origin) in [
            (
                "http://httpbin.org/headers",
                host::HTTPBIN,
                self.lab.httpbin.clone(),
            ),
            (
                "https://www.google.com",
                host::GOOGLE,
                self.lab.google.clone(),
            ),
        ] {
            let before = origin.connections();
            let reply = self.lab.curl(&[url])?;
            let left = origin.connections() - before;
            let reason = self.reason(mark, last);
            let expected = "denied in < 50 ms, no connection at origin, reason in the log";
            let agreed =
                reply.refused() && reply.elapsed < AT_ONCE && left == 0 && reason.is_some();
            let reason = reason.unwrap_or_else(|| "no reason in the log".to_owned());
            let seen = format!("{}, {left} connections at origin, {reason}", brief(&reply));
            self.row(
                step,
                if last == host::HTTPBIN {
                    action
                } else {
                    "  curl https://www.google.com"
                },
                expected,
                seen,
                agreed,
            );
        }
        Ok(())
    }

    /// The reason that the agent's log gives for a denied destination, or the denied name.
    fn reason(&mut self, mark: usize, last: u8) -> Option<String> {
        let address = self.address(last);
        let agent = self.lab.agent().ok()?;
        wait_until("the denial is in the log", Duration::from_secs(2), || {
            let lines = agent.log_since(mark);
            let line = lines
                .iter()
                .find(|line| line.contains("denied") && line.contains(&address))?;
            let reason = line.split("reason=").nth(1)?.split_whitespace().next()?;
            Some(format!("reason {}", reason.trim_matches('"')))
        })
        .ok()
    }

    /// Step 1.
    fn http_listed(&mut self) -> Result<()> {
        let within = self.apply(HTTPBIN, |lab| Ok(lab.curl(&[URL])?.code == 200))?;
        let reply = self.lab.curl(&[URL])?;
        let missing = missing_headers(&reply.body);
        let agreed = reply.code == 200 && missing.is_empty();
        let seen = match missing.as_slice() {
            [] => format!(
                "{}, all headers present; in force after {} ms",
                brief(&reply),
                within.as_millis()
            ),
            missing => format!("{}, missing: {}", brief(&reply), missing.join(" ")),
        };
        self.row(
            1,
            "httpbin.org listed, /headers",
            "200, Host, X-B3-*, X-Envoy-Decorator-Operation",
            seen,
            agreed,
        );
        Ok(())
    }

    /// Step 2.
    fn tls_listed(&mut self) -> Result<()> {
        let within = self.apply(GOOGLE, |lab| {
            Ok(lab.curl(&["https://www.google.com"])?.code == 200)
        })?;
        let before = self.lab.google.handshakes();
        let reply = self.lab.curl(&["https://www.google.com"])?;
        let page = reply.body.contains("<title>Google</title>");
        let whole = self.lab.google.handshakes() == before + 1;
        let agreed = reply.code == 200 && page && whole;
        let what = if page && whole {
            "page, origin's certificate"
        } else {
            "no page"
        };
        let within = within.as_millis();
        let seen = format!("{}, {what}; in force after {within} ms", brief(&reply));
        self.row(
            2,
            "www.google.com listed, https",
            "200, the page, TLS with the origin itself",
            seen,
            agreed,
        );
        self.foreign_name(2, "  another SNI to it")
    }

    /// TLS with a name that is not listed, to an address that is.
    fn foreign_name(&mut self, step: u8, action: &'static str) -> Result<()> {
        let to = format!("{UNLISTED}:443:{}", self.address(host::GOOGLE));
        let before = (self.lab.google.connections(), self.lab.google.handshakes());
        let reply = self
            .lab
            .curl(&["--resolve", &to, "https://bystander.example/"])?;
        let reached = (self.lab.google.connections(), self.lab.google.handshakes()) != before;
        let agreed = reply.exit == 35 && !reached;
        let seen = format!(
            "{}, origin {}",
            brief(&reply),
            if reached { "reached" } else { "untouched" }
        );
        self.row(
            step,
            action,
            "TLS closed (curl 35), origin untouched",
            seen,
            agreed,
        );
        Ok(())
    }

    /// Step 3.
    fn no_timeout(&mut self) -> Result<()> {
        let reply = self.lab.curl(&["http://httpbin.org/delay/5"])?;
        let agreed = reply.code == 200 && between(&reply, 5.0, 5.4);
        self.row(
            3,
            "no timeout rule, /delay/5",
            "200 in 5.0 to 5.4 s",
            brief(&reply),
            agreed,
        );
        Ok(())
    }

    /// Step 4.
    fn timeout(&mut self) -> Result<()> {
        let header = "x-envoy-expected-rq-timeout-ms";
        let within = self.apply(TIMEOUT, |lab| {
            lab.curl(&["http://httpbin.org/get"])?;
            Ok(last_header(&lab.httpbin, header).is_some())
        })?;
        let reply = self.lab.curl(&["http://httpbin.org/delay/5"])?;
        let told = last_header(&self.lab.httpbin, header);
        let body = reply.body == "upstream request timeout";
        let agreed = reply.code == 504
            && body
            && between(&reply, 3.0, 3.15)
            && told.as_deref() == Some("3000");
        let told = told.unwrap_or_else(|| "nothing".to_owned());
        let (within, body) = (within.as_millis(), &reply.body);
        let seen = format!(
            "{}, {body:?}, origin got timeout {told}; in force after {within} ms",
            brief(&reply)
        );
        self.row(
            4,
            "timeout 3s, /delay/5",
            "504 in 3.00 to 3.15 s, origin got timeout 3000",
            seen,
            agreed,
        );
        Ok(())
    }

    /// Step 6.
    fn unlisted_name_at_listed_address(&mut self) -> Result<()> {
        self.apply(HTTPBIN, |lab| Ok(lab.curl(&[URL])?.code == 200))?;
        self.apply(GOOGLE, |lab| {
            Ok(lab.curl(&["https://www.google.com"])?.code == 200)
        })?;
        let to = format!("{UNLISTED}:80:{}", self.address(host::HTTPBIN));
        let before = self.lab.httpbin.requests().len();
        let reply = self
            .lab
            .curl(&["--resolve", &to, "http://bystander.example/headers"])?;
        let reached = self.lab.httpbin.requests().len() != before;
        let seen = format!(
            "{}, origin {}",
            brief(&reply),
            if reached { "reached" } else { "untouched" }
        );
        let agreed = reply.code == 502 && !reached;
        self.row(
            6,
            "unlisted Host at a listed address",
            "502, origin untouched",
            seen,
            agreed,
        );
        self.foreign_name(6, "unlisted SNI at a listed address")
    }
}
