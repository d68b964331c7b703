//! Writes leases as text and reads them. An agent leaves them for the next one, so that names keep their last good
//! addresses while no name server answers.
//!
//! Owns the format, and decides which leases are still valid. The shell stores the text. Times in it are those of
//! the wall clock, as [`Duration`] since 1970, because an [`Instant`] has no meaning in another process.

use super::Leases;
use super::in_force::{InForce, Life};
use egress_ebpf::addr::Addr;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest text that is read and written.
pub const MAX_TEXT: usize = 16 << 20;
/// A lease that ended longer ago than this is not restored, and neither is a text that is older.
pub const BELIEVED: Duration = Duration::from_hours(24);
/// The longest name (RFC 1035 §2.3.4).
const MAX_NAME: usize = 255;
const FIRST: &str = "egress-agent leases 1";
const LAST: &str = "end";

/// Why a text is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Not of this form, or cut off.
    #[error("line {0} is malformed")]
    Line(usize),
    /// More than [`MAX_TEXT`].
    #[error("longer than {MAX_TEXT} bytes")]
    TooLong,
    /// Written too long ago, or by a clock that is far ahead.
    #[error("more than a day old, or from a clock that is more than a day ahead")]
    Stale,
}

/// One address of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    ip: IpAddr,
    /// When it may go, in whole seconds since 1970.
    until: u64,
    /// Of the last good answer.
    newest: bool,
}

impl Lease {
    /// The time that it is still valid at `clock`; `None` if it is not restored.
    fn left(&self, clock: Duration) -> Option<Duration> {
        let until = Duration::from_secs(self.until);
        // A clock that was set back must not extend it by more than a day.
        let left = until.saturating_sub(clock).min(BELIEVED);
        let over = clock.saturating_sub(until);
        // The last good answer stays beyond its time, as in a running agent.
        let believed = !left.is_zero() || self.newest && over <= BELIEVED;
        believed.then_some(left)
    }
}

/// A text that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored(BTreeMap<String, Vec<Lease>>);

impl Stored {
    /// Reads a whole text. `clock` is the time since 1970.
    ///
    /// # Errors
    /// The text is malformed, too long or too old. Then nothing of it is used.
    pub fn parse(text: &str, clock: Duration) -> Result<Self, StoreError> {
        if text.len() > MAX_TEXT {
            return Err(StoreError::TooLong);
        }
        let mut lines = text.lines().zip(1..);
        let mut next = |number| lines.next().ok_or(StoreError::Line(number));
        let (first, _) = next(1)?;
        let (written, _) = next(2)?;
        if first != FIRST {
            return Err(StoreError::Line(1));
        }
        let written = written
            .strip_prefix("written ")
            .and_then(|w| w.parse().ok());
        let written = Duration::from_secs(written.ok_or(StoreError::Line(2))?);
        if written.abs_diff(clock) > BELIEVED {
            return Err(StoreError::Stale);
        }
        let mut names = BTreeMap::new();
        let mut last = 2;
        let mut ended = false;
        for (line, number) in lines {
            let bad = StoreError::Line(number);
            last = number;
            if ended {
                return Err(bad);
            }
            ended = line == LAST;
            if !ended {
                let (name, leases) = entry(line).ok_or(bad)?;
                names.insert(name.to_owned(), leases);
            }
        }
        if ended {
            Ok(Self(names))
        } else {
            Err(StoreError::Line(last + 1))
        }
    }
}

/// `NAME LEASE...`
fn entry(line: &str) -> Option<(&str, Vec<Lease>)> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let is_name = !name.is_empty() && name.len() <= MAX_NAME && name.is_ascii();
    let leases: Vec<Lease> = words.map(lease).collect::<Option<_>>()?;
    (is_name && !leases.is_empty()).then_some((name, leases))
}

/// `ADDRESS@UNTIL`, with a `-` before an address that is not in the last good answer.
fn lease(word: &str) -> Option<Lease> {
    let (newest, word) = word.strip_prefix('-').map_or((true, word), |w| (false, w));
    let (ip, until) = word.split_once('@')?;
    let ip: IpAddr = ip.parse().ok()?;
    Some(Lease {
        // The form that the kernel looks up.
        ip: Addr::from(ip).canonical().into(),
        until: until.parse().ok()?,
        newest,
    })
}

impl InForce {
    /// Every name that has addresses, as text for [`Stored::parse`]. `clock` is the time since
    /// 1970 at `now`.
    pub fn store(&self, now: Instant, clock: Duration) -> String {
        let mut text = format!("{FIRST}\nwritten {}\n", clock.as_secs());
        let until = |life: &Life| {
            let at = life.until;
            let ahead = at.saturating_duration_since(now);
            let behind = now.saturating_duration_since(at);
            (clock + ahead).saturating_sub(behind).as_secs()
        };
        for (name, lives) in self.lives() {
            text.push_str(name);
            let newest = self.newest(name);
            let last = newest
                .iter()
                .filter_map(|ip| Some(("", ip, lives.get(ip)?)));
            let old = lives.iter().filter(|(ip, _)| !newest.contains(ip));
            for (mark, ip, life) in last.chain(old.map(|(ip, life)| ("-", ip, life))) {
                // Writing to a string does not fail.
                let _ = write!(text, " {mark}{ip}@{}", until(life));
            }
            text.push('\n');
        }
        text.push_str(LAST);
        text.push('\n');
        text
    }
}

impl Leases {
    /// Restores the addresses of wanted names without an address, as far as the leases are still valid and an
    /// answer with them would be accepted. These names are still asked for, but nothing waits for the answer.
    /// Returns the names that got addresses.
    pub fn restore(
        &mut self,
        now: Instant,
        clock: Duration,
        stored: &Stored,
    ) -> BTreeSet<Arc<str>> {
        let mut restored = BTreeSet::new();
        for (name, leases) in &stored.0 {
            let Some((name, mut state)) = self.names.remove_entry(name.as_str()) else {
                continue;
            };
            let believed = leases.iter().filter_map(|l| Some((l, l.left(clock)?)));
            let mut usable: Vec<_> = believed
                .filter(|(l, _)| !self.settings.leaves_out(&name, l.ip))
                .collect();
            usable.truncate(self.settings.max_addresses);
            // Without a last good answer there would be no address to dial.
            if state.lives.is_empty() && usable.iter().any(|(lease, _)| lease.newest) {
                for (lease, left) in usable {
                    let until = now.checked_add(left).unwrap_or(now);
                    let life = Life { until, seen: now };
                    if state.lives.insert(lease.ip, life).is_none() {
                        self.addresses.lease(lease.ip, &name);
                    }
                    if lease.newest && !state.newest.contains(&lease.ip) {
                        state.newest.push(lease.ip);
                    }
                }
                self.ends_next(&name, &mut state);
                self.in_force.set(&name, &state.lives);
                self.in_force.set_newest(&name, &state.newest);
                self.unheard.remove(&name);
                self.addressless.remove(&name);
                restored.insert(Arc::clone(&name));
            }
            self.names.insert(name, state);
        }
        restored
    }
}

impl Stored {
    /// Every name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The addresses of a name whose lease has not ended, and the time that is left of it.
    pub(super) fn valid(
        &self,
        name: &str,
        clock: Duration,
    ) -> impl Iterator<Item = (IpAddr, Duration)> {
        let leases = self.0.get(name).into_iter().flatten();
        let left = move |lease: &Lease| lease.left(clock).filter(|left| !left.is_zero());
        leases.filter_map(move |lease| Some((lease.ip, left(lease)?)))
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
