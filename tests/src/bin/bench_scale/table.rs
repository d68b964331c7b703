//! The figures of one part for one agent.
//!
//! Owns their order and form. `page` puts them into a page.

use std::time::Duration;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What was measured, and its figures, in the order of the part's columns.
    pub rows: Vec<(String, Vec<String>)>,
    /// What must not happen but did.
    pub trouble: Vec<String>,
}

impl Table {
    /// Adds a row, and shows it at once.
    pub fn row(&mut self, what: impl Into<String>, figures: Vec<String>) {
        let what = what.into();
        eprintln!("  {what}: {}", figures.join(", "));
        self.rows.push((what, figures));
    }

    /// Notes trouble if a connect to a listed destination was denied or failed while `what` was measured, or if there
    /// was none.
    pub fn hold(&mut self, what: &str, seen: egress_tests::prober::Watched) {
        if seen.denied > 0 || seen.failed > 0 || seen.tries == 0 {
            self.trouble.push(format!(
                "{what}: of {} listed connects {} were denied (for {} at most) and {} failed",
                seen.tries,
                seen.denied,
                time(seen.longest),
                seen.failed
            ));
        }
    }
}

/// A time in the unit that suits it.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s >= 10.0 => format!("{s:.0} s"),
        s if s >= 1.0 => format!("{s:.1} s"),
        s if s >= 0.01 => format!("{:.0} ms", s * 1e3),
        s => format!("{:.1} ms", s * 1e3),
    }
}

/// Bytes in MiB.
pub fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    if tenths >= 1000 {
        format!("{} MiB", tenths / 10)
    } else {
        format!("{}.{} MiB", tenths / 10, tenths % 10)
    }
}

/// How many times `whole` is in `part`; `x1.25`.
pub fn ratio(part: u64, whole: u64) -> String {
    let hundredths = part * 100 / whole.max(1);
    format!("x{}.{:02}", hundredths / 100, hundredths % 100)
}

/// The time that `percent` of all times do not exceed. With few times it is the longest.
pub fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<_> = (1..=10).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(5));
        assert_eq!(percentile(&times, 99), Duration::from_millis(10));
        assert_eq!(percentile(&times[..1], 50), Duration::from_millis(10));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn figures_have_a_unit_that_suits_them() {
        let shown = [12_345, 1234, 123, 5].map(|ms| time(Duration::from_millis(ms)));
        assert_eq!(shown, ["12 s", "1.2 s", "123 ms", "5.0 ms"]);
        assert_eq!(mib(1_572_864), "1.5 MiB");
        assert_eq!(mib(2 << 30), "2048 MiB");
        let shares = [(5, 4), (1, 100), (3, 0)].map(|(part, whole)| ratio(part, whole));
        assert_eq!(shares, ["x1.25", "x0.01", "x3.00"]);
    }
}
