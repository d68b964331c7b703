//! What is wrong about a case: differences that the table does not list, and listed ones that are none.

use crate::case::Case;
use crate::client::Got;
use crate::compare::{Run, Shown};
use crate::differences::Difference;
use crate::envoy::Envoy;
use crate::log_line::Lines;
use crate::origin::Seen;
use crate::trial::{self, Done, Prepared, Side};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Names that are used twice, and differences of cases that do not exist.
pub fn names(
    cases: &[(String, Case)],
    known: &BTreeMap<&str, Vec<&Difference>>,
    some: bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut all: Vec<_> = cases.iter().map(|(_, case)| case.name.as_str()).collect();
    all.sort_unstable();
    for pair in all.windows(2).filter(|pair| pair[0] == pair[1]) {
        wrong.push(format!("two cases are called {}", pair[0]));
    }
    for name in known
        .keys()
        .filter(|name| !some && all.binary_search(name).is_err())
    {
        wrong.push(format!(
            "differences.yaml names a case that does not exist: {name}"
        ));
    }
    wrong
}

/// What is wrong about these cases, of which so many run at once.
pub async fn all(
    cases: Vec<Case>,
    at_once: usize,
    known: &BTreeMap<&str, Vec<&Difference>>,
    show: bool,
) -> Vec<String> {
    let (prepared, mut wrong) = trial::prepare(cases).await;
    let sites: Vec<_> = prepared.iter().map(|one| one.site()).collect();
    let envoy = Envoy::start(&sites).await;
    let done = trial::run_all(&prepared, at_once).await;
    for (number, (one, done)) in prepared.iter().zip(&done).enumerate() {
        let lines = envoy.lines(number);
        let known = known
            .get(one.case.name.as_str())
            .map_or(&[][..], Vec::as_slice);
        wrong.extend(case(one, done, &lines, known, show));
    }
    wrong
}

/// What is wrong about a case.
pub fn case(
    one: &Prepared,
    done: &Done,
    lines: &[Lines],
    known: &[&Difference],
    show: bool,
) -> Option<String> {
    let name = &one.case.name;
    let shown = |side: &Side, (got, seen): &(Got, Vec<Seen>), lines: &[Lines]| {
        Shown::of(&Run {
            case: &one.case,
            got,
            seen,
            lines,
            names: &side.names(),
        })
    };
    let envoy = shown(&one.envoy, &done.envoy, lines);
    let gate = shown(&one.gate, &done.gate, &done.lines);
    if show {
        println!(
            "== {name}\n{:#?}\n{:#?}\n{lines:#?}\n{:#?}",
            done.envoy, done.gate, done.lines
        );
    }
    let mut told = String::new();
    for what in &envoy.out_of_bounds {
        writeln!(told, "    Envoy: {what}").unwrap();
    }
    let mut found = envoy.differences(&gate);
    let late = gate.out_of_bounds.join(", ");
    if !late.is_empty() {
        found.insert("time", ("within bounds", &late));
    }
    for (aspect, (of_envoy, of_gate)) in &found {
        if !known.iter().any(|one| one.covers(aspect)) {
            writeln!(told, "    {aspect}: Envoy {of_envoy:?}, gate {of_gate:?}").unwrap();
        }
    }
    for one in known {
        if !found.keys().any(|aspect| one.covers(aspect)) {
            writeln!(
                told,
                "    agrees, but differences.yaml lists it: {}",
                one.what
            )
            .unwrap();
        }
    }
    (!told.is_empty()).then(|| format!("  {name}\n{told}"))
}
