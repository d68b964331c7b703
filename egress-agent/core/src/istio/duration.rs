//! Durations as Go writes them (`1h30m`, `.5s`), which is how Istio's YAML spells every time span.
//!
//! Only the syntax; validation decides which durations a field may have.

use std::time::Duration;
use thiserror::Error;

/// A signed span of time, in nanoseconds. Istio's decoder accepts a minus sign; validation then
/// refuses it, so the sign must survive decoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan {
    nanos: i64,
}

impl TimeSpan {
    /// A span of so many nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self { nanos }
    }

    /// A span of so many milliseconds.
    pub const fn from_millis(millis: i64) -> Self {
        Self {
            nanos: millis.saturating_mul(1_000_000),
        }
    }

    /// The length in nanoseconds.
    pub const fn nanos(self) -> i64 {
        self.nanos
    }

    /// The span as [`Duration`]; a negative one, which validation rejects, becomes zero.
    pub const fn duration(self) -> Duration {
        if self.nanos < 0 {
            Duration::ZERO
        } else {
            Duration::from_nanos(self.nanos.unsigned_abs())
        }
    }
}

/// Why a text is not a duration, in the words of Go's `time.ParseDuration`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    /// No number where one must stand, or more than about 292 years.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit that Go does not know.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// What stands where the unit should.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// Reads a duration by the rules of Go's `time.ParseDuration`: an optional sign, then numbers with
/// optional fraction, each with a unit; a bare `0` is allowed. Digits below a nanosecond are dropped.
pub fn parse_duration(text: &str) -> Result<TimeSpan, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(TimeSpan::default());
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    // Go counts in u64 and allows 1<<63 only for the negative limit.
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = take_digits(rest);
        rest = after;
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            (fraction, rest) = take_digits(after);
        }
        if number.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = rest
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        if name.is_empty() {
            return Err(DurationError::MissingUnit(text.to_owned()));
        }
        let unit = unit_nanos(name).ok_or_else(|| DurationError::UnknownUnit {
            unit: name.to_owned(),
            text: text.to_owned(),
        })?;
        let whole = if number.is_empty() {
            0
        } else {
            number.parse::<u64>().map_err(|_| invalid())?
        };
        let part = whole.checked_mul(unit).ok_or_else(invalid)?;
        total = total
            .checked_add(part)
            .and_then(|sum| sum.checked_add(fraction_nanos(fraction, unit)))
            .ok_or_else(invalid)?;
        if total > 1 << 63 {
            return Err(invalid());
        }
    }
    if negative {
        return Ok(TimeSpan::from_nanos(0_i64.wrapping_sub_unsigned(total)));
    }
    i64::try_from(total)
        .map(TimeSpan::from_nanos)
        .map_err(|_| invalid())
}

fn take_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

fn unit_nanos(name: &str) -> Option<u64> {
    Some(match name {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// The digits after the point times the unit, cut off below one nanosecond.
fn fraction_nanos(digits: &str, unit: u64) -> u64 {
    let mut value: u128 = 0;
    let mut scale: u128 = 1;
    // 18 digits are finer than a nanosecond of an hour; the rest cannot change the result.
    for digit in digits.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    u64::try_from(value * u128::from(unit) / scale).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_go_accepts_have_the_same_length_here() {
        for (text, nanos) in [
            ("500ms", 500_000_000),
            ("0.5s", 500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("+5s", 5_000_000_000),
            ("-5s", -5_000_000_000),
            ("0", 0),
            ("-0", 0),
            ("1.0000000001s", 1_000_000_000),
            ("1\u{b5}s", 1_000),
            ("87600h", 315_360_000_000_000_000),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(TimeSpan::from_nanos(nanos)),
                "{text}"
            );
        }
    }

    #[test]
    fn texts_that_go_refuses_are_refused_in_its_words() {
        for (text, message) in [
            ("", "time: invalid duration \"\""),
            ("s", "time: invalid duration \"s\""),
            (".s", "time: invalid duration \".s\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5 s", "time: unknown unit \" s\" in duration \"5 s\""),
            ("5S", "time: unknown unit \"S\" in duration \"5S\""),
            ("2d", "time: unknown unit \"d\" in duration \"2d\""),
            ("1e3s", "time: unknown unit \"e\" in duration \"1e3s\""),
            (
                "9223372036854775808ns",
                "time: invalid duration \"9223372036854775808ns\"",
            ),
            ("99999999999h", "time: invalid duration \"99999999999h\""),
        ] {
            assert_eq!(parse_duration(text).unwrap_err().to_string(), message);
        }
    }
}
