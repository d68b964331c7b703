//! Ten thousand names over five minutes, second by second.

use super::super::{Answer, Failure, Leases};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

const NAMES: u32 = 10_000;
const SECONDS: u32 = 300;

/// The number of questions in each second after the first answers, which all come at the same moment. `answer` is a
/// server's answer to a question in a given second.
fn questions(ttl: u32, answer: impl Fn(usize) -> bool) -> Vec<u32> {
    let start = Instant::now();
    let mut leases = Leases::new(LeaseSettings {
        seed: 7,
        ..LeaseSettings::default()
    });
    let names: BTreeSet<Arc<str>> = (0..NAMES).map(|n| format!("h{n}.example").into()).collect();
    leases.want(start, &names);
    let mut seconds = vec![0; SECONDS as usize + 1];
    let mut now = start;
    while let Some(second) = seconds.get_mut((now - start).as_secs() as usize) {
        while let Some(name) = leases.poll_query(now) {
            *second += 1;
            let ip = [203, 0, 113, 1].into();
            let result = if answer((now - start).as_secs() as usize) {
                Ok(Answer {
                    addresses: vec![ip],
                    ttl: Duration::from_secs(ttl.into()),
                })
            } else {
                Err(Failure::Failed("timeout".into()))
            };
            leases.handle_answer(now, &name, result);
        }
        now = leases.poll_timeout().unwrap();
    }
    assert!(seconds[0] >= NAMES, "all at the start");
    seconds[1..].to_vec()
}

/// The busiest second, as a multiple of the mean.
fn busiest(seconds: &[u32]) -> f64 {
    let sum: u32 = seconds.iter().sum();
    let most = seconds.iter().max().unwrap();
    f64::from(*most) * f64::from(u32::try_from(seconds.len()).unwrap()) / f64::from(sum)
}

#[test]
fn ten_thousand_names_are_asked_for_evenly_over_five_minutes() {
    for ttl in [10, 30, 300] {
        let seconds = questions(ttl, |_| true);
        let (busiest, sum) = (busiest(&seconds), seconds.iter().sum::<u32>());
        println!("TTL {ttl} s: {sum} questions, busiest second {busiest:.2} of the mean");
        assert!(busiest < 1.7, "TTL {ttl} s: {busiest} of the mean");
        // No name is asked for much more often than its TTL says.
        let each = f64::from(sum) / f64::from(NAMES) * f64::from(ttl) / f64::from(SECONDS);
        assert!(each < 1.25, "TTL {ttl} s: {each} questions in its time");
        assert!(!seconds.contains(&0), "TTL {ttl} s: a second of silence");
    }
}

#[test]
fn names_that_a_server_gives_back_together_are_asked_for_evenly_from_then_on() {
    let seconds = questions(60, |second| !(60..150).contains(&second));
    // The last name is tried again within 30 s.
    let after = &seconds[185..];
    assert!(busiest(after) < 1.5, "{after:?}");
}

proptest! {
    #[test]
    fn a_pause_is_within_its_bounds(
        seed in any::<u64>(),
        ttl in prop_oneof![0..400_u64, any::<u64>()],
        failures in any::<u32>(),
    ) {
        let settings = LeaseSettings::default();
        let (least, most) = (settings.min_refresh, settings.max_refresh);
        let ttl = Duration::from_secs(ttl);
        let whole = ttl.clamp(least, most);
        let mut refresh = Refresh::new(seed);
        let first = refresh.pause(Heard::First(ttl), &settings);
        prop_assert!(first <= whole, "{first:?} of {whole:?}");
        let again = refresh.pause(Heard::Again(ttl), &settings);
        prop_assert!(least.max(whole * 9 / 10) <= again && again <= whole, "{again:?} of {whole:?}");
        let retry = refresh.pause(Heard::Failure(failures), &settings);
        prop_assert!(settings.min_retry / 2 <= retry && retry <= settings.max_retry);
    }
}
