//! Every metric, by subject. The output and docs/metrics.md are made from this list, so no metric is without
//! documentation.
//!
//! `tables` has the metrics of current values, `observe/families` the counters, `observe/histogram` the histograms.

use super::exposition::Exposition;
use super::kind::Kind;
use super::metric::{Group, Metric};
use super::tables;
use super::values::Values;

/// All of them.
pub const GROUPS: &[Group] = &[
    tables::gate::GROUP,
    tables::flows::GROUP,
    tables::proxy::GROUP,
    tables::rules::GROUP,
    tables::kubernetes::GROUP,
    tables::dns::GROUP,
    tables::workloads::GROUP,
    tables::agent::GROUP,
];

/// Writes every metric.
pub fn write(values: &Values<'_>, out: &mut Exposition) {
    for metric in GROUPS.iter().flat_map(|group| group.metrics) {
        let Some(described) = metric.described() else {
            continue;
        };
        out.metric(described.name, described.kind, described.help);
        metric.write(values, out);
    }
}

/// The names of all samples, as a query uses them: those of a histogram have suffixes.
pub fn names() -> Vec<String> {
    let metrics = GROUPS.iter().flat_map(|group| group.metrics);
    let described = metrics.filter_map(Metric::described);
    described
        .flat_map(|metric| match metric.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"]
                .map(|suffix| format!("{}{suffix}", metric.name))
                .to_vec(),
            Kind::Counter | Kind::Gauge => vec![metric.name.to_owned()],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitoring::metric::Described;
    use crate::observe::families::FAMILIES;
    use crate::observe::histogram::TIMINGS;
    use std::collections::BTreeSet;

    #[test]
    fn every_counter_and_histogram_is_in_one_group() {
        let metrics = || GROUPS.iter().flat_map(|group| group.metrics);
        let all: Vec<_> = metrics().filter_map(Metric::described).collect();
        assert_eq!(all.len(), metrics().count(), "a counter does not exist");
        let names: BTreeSet<_> = all.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), all.len(), "a name is given twice");
        let counters = FAMILIES.iter().map(|family| family.name);
        for name in counters.chain(TIMINGS.iter().map(|timing| timing.name)) {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for metric in GROUPS.iter().flat_map(|group| group.metrics) {
            let Described {
                name, kind, help, ..
            } = metric.described().unwrap();
            assert!(
                name.starts_with("egress_") || name.starts_with("process_"),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            assert!(
                kind != Kind::Histogram || name.ends_with("_seconds"),
                "{name}"
            );
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}");
        }
    }
}
