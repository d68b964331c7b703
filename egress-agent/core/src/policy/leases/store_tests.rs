//! The leases that an agent leaves for the next one.

use super::*;
use crate::policy::leases::{Answer, Failure, LeaseSettings};

const NAME: &str = "httpbin.org";
/// Some time in 2026.
const CLOCK: Duration = Duration::from_secs(1_795_000_000);
const HOUR: Duration = Duration::from_hours(1);

fn wanting(names: &[&str]) -> (Leases, Instant) {
    let now = Instant::now();
    let mut leases = Leases::new(LeaseSettings::default());
    leases.want(now, &names.iter().map(|n| Arc::from(*n)).collect());
    while leases.poll_query(now).is_some() {}
    (leases, now)
}

fn answer(leases: &mut Leases, now: Instant, name: &str, ips: &[&str]) {
    let answer = Answer {
        addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ttl: Duration::from_mins(1),
    };
    leases.handle_answer(now, name, Ok(answer));
}

fn leased(leases: &Leases, name: &str) -> Vec<String> {
    leases.leased(name).map(|ip| ip.to_string()).collect()
}

fn newest(leases: &Leases, name: &str) -> Vec<String> {
    leases
        .newest(name)
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Two answers a minute apart: the first one's addresses are still leased.
fn text() -> String {
    let (mut leases, now) = wanting(&[NAME, "silent.example"]);
    answer(&mut leases, now, NAME, &["203.0.113.1", "2001:db8::1"]);
    let later = now + Duration::from_mins(1);
    answer(&mut leases, later, NAME, &["203.0.113.3", "203.0.113.2"]);
    leases.in_force().store(later, CLOCK)
}

#[test]
fn the_next_agent_has_the_addresses_in_their_order_and_asks_all_the_same() {
    let stored = Stored::parse(&text(), CLOCK + HOUR / 60).unwrap();
    let now = Instant::now();
    let mut leases = Leases::new(LeaseSettings::default());
    leases.want(now, &BTreeSet::from([Arc::from(NAME)]));
    let restored = leases.restore(now, CLOCK + HOUR / 60, &stored);
    assert_eq!(restored, BTreeSet::from([Arc::from(NAME)]));
    assert_eq!(newest(&leases, NAME), ["203.0.113.3", "203.0.113.2"]);
    let all = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8::1"];
    assert_eq!(leased(&leases, NAME), all);
    assert_eq!(leases.poll_query(now).as_deref(), Some(NAME));
    let holders = leases
        .addresses()
        .names_of("203.0.113.3".parse::<IpAddr>().unwrap().into());
    assert_eq!(holders.map(|n| &**n).collect::<Vec<_>>(), [NAME]);

    // The older answer's addresses end with their time. Those of the last good answer stay.
    leases.handle_answer(now, NAME, Err(Failure::NoSuchName));
    leases.handle_timeout(now + HOUR);
    assert_eq!(leased(&leases, NAME), ["203.0.113.2", "203.0.113.3"]);
    leases.forget(&Arc::from(NAME));
    assert_eq!(leases.poll_timeout(), None, "nothing is left behind");
}

#[test]
fn a_name_that_is_not_wanted_or_was_answered_since_gets_nothing() {
    let stored = Stored::parse(&text(), CLOCK).unwrap();
    let (mut other, now) = wanting(&["other.example"]);
    assert!(other.restore(now, CLOCK, &stored).is_empty());
    assert!(leased(&other, NAME).is_empty());
    let holders = |ip: &str| {
        let addr = ip.parse::<IpAddr>().unwrap().into();
        other.addresses().names_of(addr).count()
    };
    assert_eq!((holders("203.0.113.2"), holders("203.0.113.3")), (0, 0));
    let (mut fresh, now) = wanting(&[NAME]);
    answer(&mut fresh, now, NAME, &["203.0.113.9"]);
    assert!(fresh.restore(now, CLOCK, &stored).is_empty());
    assert_eq!(leased(&fresh, NAME), ["203.0.113.9"]);
}

#[test]
fn what_an_answer_may_not_hold_is_not_restored_either() {
    let until = CLOCK.as_secs() + 600;
    let words = ["10.0.0.1", "::1", "64:ff9b::a9fe:a9fe", "203.0.113.1"];
    let words = words.map(|ip| format!("{ip}@{until}")).join(" ");
    let text = format!(
        "{FIRST}\nwritten {}\n{NAME} {words}\nend\n",
        CLOCK.as_secs()
    );
    let stored = Stored::parse(&text, CLOCK).unwrap();
    let (mut leases, now) = wanting(&[NAME]);
    leases.restore(now, CLOCK, &stored);
    assert_eq!(leased(&leases, NAME), ["203.0.113.1"]);
    let mut narrow = Leases::new(LeaseSettings {
        max_addresses: 2,
        allow_private_answers: true,
        ..LeaseSettings::default()
    });
    narrow.want(now, &BTreeSet::from([Arc::from(NAME)]));
    narrow.restore(now, CLOCK, &stored);
    assert_eq!(leased(&narrow, NAME).len(), 2);
}

#[test]
fn what_is_older_than_a_day_is_not_believed() {
    let day = BELIEVED + Duration::from_secs(1);
    for clock in [CLOCK + day, CLOCK.saturating_sub(day)] {
        assert_eq!(Stored::parse(&text(), clock), Err(StoreError::Stale));
    }
    // The former agent kept it for long, because no name server answered. It was written just now.
    let old = CLOCK.as_secs() - day.as_secs();
    let text = format!(
        "{FIRST}\nwritten {}\n{NAME} 203.0.113.1@{old}\nend\n",
        CLOCK.as_secs()
    );
    let stored = Stored::parse(&text, CLOCK).unwrap();
    let (mut leases, now) = wanting(&[NAME]);
    assert!(leases.restore(now, CLOCK, &stored).is_empty());
    assert!(leased(&leases, NAME).is_empty());
    // Its time ended less than a day ago, so it is the last good answer.
    let text = text.replace(&old.to_string(), &(CLOCK.as_secs() - 60).to_string());
    let stored = Stored::parse(&text, CLOCK).unwrap();
    leases.restore(now, CLOCK, &stored);
    assert_eq!(leased(&leases, NAME), ["203.0.113.1"]);
    leases.handle_timeout(now + HOUR);
    assert_eq!(leased(&leases, NAME), ["203.0.113.1"]);
}

#[test]
fn a_text_that_is_not_as_it_was_written_is_taken_by_no_part() {
    let good = text();
    let written = good.lines().nth(1).unwrap();
    for (bad, line) in [
        (String::new(), 1),
        (FIRST.to_owned(), 2),
        ("egress-agent leases 2\nwritten 1\nend\n".into(), 1),
        (good.replace(written, "written soon"), 2),
        (good.replace(LAST, ""), 4),
        (good.replace("end\n", ""), 4),
        (format!("{good}more\n"), 5),
        (good.replace("203.0.113.3@", "203.0.113@"), 3),
        (good.replace("203.0.113.3@", "203.0.113.3 "), 3),
        (good.replace(" -", "  -"), 3),
        (good.replace(NAME, ""), 3),
        (good.replace(NAME, &"a".repeat(256)), 3),
        (good.replace(NAME, "b\u{fc}cher.example"), 3),
        (good.replace("@1", "@-1"), 3),
        (good.replace("@1", "@99999999999999999999"), 3),
    ] {
        let parsed = Stored::parse(&bad, CLOCK);
        assert_eq!(parsed, Err(StoreError::Line(line)), "{bad}");
    }
    let long = " ".repeat(MAX_TEXT + 1);
    assert_eq!(Stored::parse(&long, CLOCK), Err(StoreError::TooLong));
}

#[test]
fn no_cut_and_no_flipped_bit_makes_it_panic() {
    let good = text().into_bytes();
    for at in 0..good.len() {
        for bit in 0..7 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            if let Ok(stored) = Stored::parse(str::from_utf8(&bytes).unwrap(), CLOCK) {
                let (mut leases, now) = wanting(&[NAME]);
                leases.restore(now, CLOCK, &stored);
            }
        }
        let cut = str::from_utf8(&good[..at]).unwrap();
        // The last line needs no line end.
        assert_eq!(Stored::parse(cut, CLOCK).is_ok(), at == good.len() - 1);
    }
}
