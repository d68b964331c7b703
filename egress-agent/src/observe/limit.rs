//! The rate limit of the process's log lines. It suppresses a line before it is formatted, and counts it.
//!
//! Denials have limits of their own ([`super::denials`], [`super::flows`]), which count repeats by kind.
//! This limit is for all other lines, including those of libraries. Levels below INFO have no limit: a user
//! who turns them on wants them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of all places together, without errors: lines a second, lines at once.
const ALL: Rate = Rate::new(40, 100);
/// Lines of one place in the agent's code.
const OWN: Rate = Rate::new(20, 100);
/// Lines of one place in a library: its repeats rarely help.
const FOREIGN: Rate = Rate::new(1, 1);
/// Modules whose lines have limits of their own.
const BOUNDED: [&str; 2] = ["egress_agent::observe::event", module_path!()];
/// Time between two reports of suppressed lines.
const REPORT: Duration = Duration::from_secs(5);

/// A number of lines a second over time, and a number at once.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Nanoseconds between two lines at this rate.
    each: u64,
    /// Nanoseconds by which lines may be ahead of the rate.
    burst: u64,
}

impl Rate {
    const fn new(per_second: u64, at_once: u64) -> Self {
        let each = 1_000_000_000 / per_second;
        Self {
            each,
            burst: each * (at_once - 1),
        }
    }
}

/// The generic cell rate algorithm (ITU-T I.371). One word holds the time at which the lines so far would
/// have passed at the rate, so threads need no lock.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    fn takes(&self, now: u64, rate: Rate) -> bool {
        let take = |due: u64| {
            let due = due.max(now);
            (due - now <= rate.burst).then_some(due + rate.each)
        };
        let relaxed = Ordering::Relaxed;
        self.0.fetch_update(relaxed, relaxed, take).is_ok()
    }
}

/// One place in the code.
#[derive(Debug)]
struct Place {
    bucket: Bucket,
    rate: Rate,
    held_back: AtomicU64,
    name: String,
}

/// See the module.
#[derive(Debug)]
pub struct LineLimit {
    start: Instant,
    all: Bucket,
    places: RwLock<HashMap<Identifier, Arc<Place>>>,
}

impl Default for LineLimit {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            all: Bucket::default(),
            places: RwLock::default(),
        }
    }
}

impl LineLimit {
    fn allows(&self, now: Instant, line: &'static Metadata<'static>) -> bool {
        let unbounded = *line.level() > Level::INFO
            || line
                .module_path()
                .is_some_and(|path| BOUNDED.contains(&path));
        if unbounded {
            return true;
        }
        let place = self.place(line);
        // 584 years of nanoseconds.
        let now = now.saturating_duration_since(self.start).as_nanos() as u64;
        let fits = place.bucket.takes(now, place.rate)
            && (*line.level() == Level::ERROR || self.all.takes(now, ALL));
        if !fits {
            place.held_back.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    /// The place of a line. The map has one entry for each place in the code that has logged.
    fn place(&self, line: &'static Metadata<'static>) -> Arc<Place> {
        let id = line.callsite();
        let known = {
            let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
            places.get(&id).map(Arc::clone)
        };
        known.unwrap_or_else(|| {
            let own = line.target().starts_with("egress");
            let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
            let place = places.entry(id).or_insert_with(|| {
                Arc::new(Place {
                    bucket: Bucket::default(),
                    rate: if own { OWN } else { FOREIGN },
                    held_back: AtomicU64::new(0),
                    name: match line.line() {
                        Some(at) => format!("{}:{at}", line.target()),
                        None => line.target().to_owned(),
                    },
                })
            });
            Arc::clone(place)
        })
    }

    /// The number of lines suppressed since the last call, by place, sorted.
    fn held_back(&self) -> Vec<(String, u64)> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let mut held: Vec<_> = places
            .values()
            .map(|p| (p.name.clone(), p.held_back.swap(0, Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect();
        held.sort();
        held
    }

    fn report(&self) {
        let held = self.held_back();
        if held.is_empty() {
            return;
        }
        let suppressed: u64 = held.iter().map(|(_, count)| count).sum();
        let places: Vec<&str> = held.iter().map(|(name, _)| name.as_str()).collect();
        let places = places.join(",");
        tracing::warn!(suppressed, places, "lines not logged (rate limit)");
    }
}

impl<S: Subscriber> Layer<S> for &'static LineLimit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        self.allows(Instant::now(), event.metadata())
    }
}

/// Reports how many lines were suppressed. Does not return.
pub async fn report_held_back(limit: &LineLimit) {
    loop {
        tokio::time::sleep(REPORT).await;
        limit.report();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::captured;
    use std::cell::Cell;
    use std::fmt;

    /// Counts how often it is formatted.
    struct Costly<'a>(&'a Cell<usize>);

    impl fmt::Display for Costly<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.set(self.0.get() + 1);
            f.write_str("costly")
        }
    }

    fn lines(work: impl FnOnce(&'static LineLimit)) -> Vec<serde_json::Value> {
        let limit: &'static LineLimit = Box::leak(Box::default());
        captured::lines_through(limit, || work(limit))
    }

    #[test]
    fn a_bucket_gives_what_is_owed_at_once_and_then_the_rate() {
        let (bucket, rate, second) = (Bucket::default(), Rate::new(10, 5), 1_000_000_000);
        let taken = |from: u64, to: u64| {
            let times = (from..to).step_by(1_000_000);
            times.filter(|now| bucket.takes(*now, rate)).count()
        };
        assert_eq!(taken(0, 1_000_000), 1);
        assert_eq!(taken(0, second), 13, "five at once, ten with time");
        assert_eq!(taken(second, 5 * second), 40);
        assert_eq!(taken(99 * second, 100 * second), 14, "a rest fills it");
    }

    #[test]
    fn a_flood_is_held_back_before_it_is_formatted_and_told_of_once() {
        let formatted = Cell::new(0);
        let lines = lines(|limit| {
            for _ in 0..100_000 {
                tracing::warn!(what = %Costly(&formatted), "stray");
                tracing::warn!(target: "a_library", what = %Costly(&formatted), "stray too");
            }
            limit.report();
            limit.report();
        });
        // A slow machine may take more than a second.
        assert!((100..400).contains(&lines.len()), "{}", lines.len());
        assert!(formatted.get() < 400, "{formatted:?}");
        let (told, last) = lines
            .split_last()
            .map(|(last, told)| (told.len(), last))
            .unwrap();
        assert_eq!(last["message"], "lines not logged (rate limit)");
        assert_eq!(last["suppressed"], 200_000 - told);
        assert!(last["places"].as_str().unwrap().starts_with("a_library:"));
        let reports = lines.iter().filter(|l| l["message"] == last["message"]);
        assert_eq!(reports.count(), 1);
    }

    #[test]
    fn a_flood_leaves_room_for_errors_for_denials_and_for_who_asks_for_debug_lines() {
        let lines = lines(|_| {
            for _ in 0..1000 {
                tracing::warn!("stray");
                tracing::debug!("wanted");
            }
            tracing::error!("trouble");
        });
        let count = |message: &str| lines.iter().filter(|l| l["message"] == message).count();
        assert!(count("stray") < 200);
        assert_eq!((count("wanted"), count("trouble")), (1000, 1));
        assert!(BOUNDED.contains(&crate::observe::event::MODULE));
    }
}
