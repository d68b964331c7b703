//! What a metric is: its description and the code that writes its samples. Lists none; `catalog` does.

use super::exposition::Exposition;
use super::kind::Kind;
use super::values::Values;
use crate::observe::families::{FAMILIES, Family};
use crate::observe::histogram::{TIMINGS, Timing, TimingFamily};

/// A metric whose values are gathered at a scrape.
pub struct Gathered {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// Its meaning, in sentences.
    pub help: &'static str,
    /// Writes its samples.
    pub samples: Samples,
}

/// Writes the samples of a metric.
pub type Samples = fn(&Values<'_>, &mut Exposition);

/// A metric of a group.
pub enum Metric {
    /// A family of counters, by name.
    Counted(&'static str),
    /// A histogram.
    Timed(Timing),
    /// Values that are gathered at a scrape.
    Gathered(Gathered),
}

/// Metrics about one subject.
pub struct Group {
    /// The subject.
    pub title: &'static str,
    /// Its metrics.
    pub metrics: &'static [Metric],
}

/// The description of a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels, sorted.
    pub labels: Vec<&'static str>,
    /// Its meaning, in sentences.
    pub help: &'static str,
}

fn family(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name)
}

fn timing(timing: Timing) -> &'static TimingFamily {
    &TIMINGS[timing as usize]
}

/// A current value.
pub const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    samples: Samples,
) -> Metric {
    Metric::Gathered(Gathered {
        name,
        kind: Kind::Gauge,
        labels,
        help,
        samples,
    })
}

/// A counter whose values are gathered at a scrape.
pub const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    samples: Samples,
) -> Metric {
    Metric::Gathered(Gathered {
        name,
        kind: Kind::Counter,
        labels,
        help,
        samples,
    })
}

impl Metric {
    /// Its description; `None` for a counter that does not exist, which a test excludes.
    pub fn described(&self) -> Option<Described> {
        let mut described = match self {
            Self::Counted(name) => {
                let family = family(name)?;
                let labels = family.series.first()?.labels.iter();
                Described {
                    name: family.name,
                    kind: Kind::Counter,
                    labels: labels.map(|(label, _)| *label).collect(),
                    help: family.help,
                }
            }
            Self::Timed(which) => {
                let TimingFamily { name, help, .. } = timing(*which);
                Described {
                    name,
                    kind: Kind::Histogram,
                    labels: vec!["le"],
                    help,
                }
            }
            Self::Gathered(gathered) => Described {
                name: gathered.name,
                kind: gathered.kind,
                labels: gathered.labels.to_vec(),
                help: gathered.help,
            },
        };
        described.labels.sort_unstable();
        Some(described)
    }

    /// Writes its samples.
    pub fn write(&self, values: &Values<'_>, out: &mut Exposition) {
        match self {
            Self::Counted(name) => {
                for sample in values.registry.samples_of(name) {
                    out.sample(sample.series.labels, sample.value);
                }
            }
            Self::Timed(which) => {
                let timings = values.registry.own.timings();
                out.histogram(&timings.measured(*which));
            }
            Self::Gathered(gathered) => (gathered.samples)(values, out),
        }
    }
}
