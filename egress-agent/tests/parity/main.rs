//! The gate beside Envoy: the same bytes from a client to both, with rules that mean the same, and origins that do the
//! same.
//!
//! `cases/` has the cases by group, `differences.yaml` those in which the two differ, with the reasons. A case that
//! agrees although it stands there fails. `EGRESS_PARITY=words` runs the cases whose group or name contains the words
//! and shows what each side did; `EGRESS_PARITY_SHOW=1` shows it for all.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod case;
mod client;
mod compare;
mod differences;
mod envoy;
mod gate;
mod http2;
mod judge;
mod log_line;
mod message;
mod origin;
#[expect(dead_code, reason = "the proxy's own tests use the rest")]
#[path = "../proxy/raw.rs"]
mod raw;
#[expect(dead_code, reason = "the proxy's own tests use the rest")]
#[path = "../proxy/support.rs"]
mod support;
mod trial;

use case::Case;
use std::path::Path;

/// How many cases run at once.
const AT_ONCE: usize = 24;
/// The same for cases that compare times.
const FEW: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_does_what_envoy_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity");
    let chosen = std::env::var("EGRESS_PARITY").ok();
    let mut cases = case::all(&folder.join("cases"));
    let count = cases.len();
    if let Some(words) = &chosen {
        cases.retain(|(group, case)| format!("{group}: {}", case.name).contains(words));
    }
    let table = differences::all(&folder.join("differences.yaml"));
    let known = differences::by_case(&table);
    let mut wrong = judge::names(&cases, &known, chosen.is_some());

    let show = chosen.is_some() || std::env::var_os("EGRESS_PARITY_SHOW").is_some();
    let cases: Vec<_> = cases.into_iter().map(|(_, case)| case).collect();
    let (timed, others): (Vec<_>, Vec<_>) = cases.into_iter().partition(Case::is_timed);
    wrong.extend(judge::all(others, AT_ONCE, &known, show).await);
    // Times are blurred by whatever else runs at the same time.
    wrong.extend(judge::all(timed, FEW, &known, show).await);
    assert!(
        wrong.is_empty(),
        "{} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    if chosen.is_none() {
        let page = folder.join("../../../docs/differences.md");
        differences::page(&page, &table, count);
    }
}
