//! The text of metrics: Prometheus' text format 0.0.4, and OpenMetrics 1.0.0. Knows no metric.

use super::kind::Kind;
use crate::observe::histogram::Measured;
use std::fmt::{Display, Write as _};
use std::time::Duration;

/// A format of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics,
}

impl Format {
    /// The format for an Accept header. Prometheus lists the formats that it reads, OpenMetrics among them.
    pub fn wanted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The value of Content-Type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A label and its value.
pub type Label<'a> = (&'a str, &'a str);

/// The text so far.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
    /// The metric that samples belong to.
    name: &'static str,
}

impl Exposition {
    /// An empty text.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            text: String::new(),
            name: "",
        }
    }

    /// Begins a metric: further samples belong to it.
    pub fn metric(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.name = name;
        // The name of a counter's family has no suffix in OpenMetrics.
        let family = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Counter) => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let kind = kind.word();
        let help = escaped(help, self.format == Format::OpenMetrics);
        self.write(format_args!(
            "# HELP {family} {help}\n# TYPE {family} {kind}\n"
        ));
    }

    /// The only sample of the present metric.
    pub fn value(&mut self, value: impl Display) {
        self.sample(&[], value);
    }

    /// A sample of the present metric.
    pub fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.line("", labels, None, value);
    }

    /// The samples of the present metric, a histogram.
    pub fn histogram(&mut self, measured: &Measured) {
        for (bound, count) in &measured.at_most {
            let bound = seconds(*bound);
            self.line("_bucket", &[], Some(&bound), count);
        }
        self.line("_bucket", &[], Some("+Inf"), measured.count);
        self.line("_sum", &[], None, measured.sum.as_secs_f64());
        self.line("_count", &[], None, measured.count);
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[Label<'_>],
        bound: Option<&str>,
        value: impl Display,
    ) {
        let name = self.name;
        self.write(format_args!("{name}{suffix}"));
        let mut separator = '{';
        let bound = bound.map(|bound| ("le", bound));
        for (label, value) in labels.iter().copied().chain(bound) {
            let value = escaped(value, true);
            self.write(format_args!("{separator}{label}=\"{value}\""));
            separator = ',';
        }
        let end = if separator == ',' { "}" } else { "" };
        self.write(format_args!("{end} {value}\n"));
    }

    /// The whole text.
    pub fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        // A write to a String does not fail.
        let _ = self.text.write_fmt(text);
    }
}

/// A bound as both formats write it: a float, in OpenMetrics with a point.
fn seconds(bound: Duration) -> String {
    format!("{:?}", bound.as_secs_f64())
}

fn escaped(text: &str, quotes: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if quotes => escaped.push_str("\\\""),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let mut out = Exposition::new(format);
        out.metric("egress_x_total", Kind::Counter, "Says \"x\".");
        out.sample(&[("a", "1"), ("b", "a\\b\n\"c\"")], 7);
        out.metric("egress_y", Kind::Gauge, "Y.");
        out.value(1.5);
        out.metric("egress_z_seconds", Kind::Histogram, "Z.");
        out.histogram(&Measured {
            at_most: vec![(Duration::from_millis(250), 1), (Duration::from_secs(1), 2)],
            count: 3,
            sum: Duration::from_millis(4250),
        });
        out.end()
    }

    #[test]
    fn both_formats_are_written_as_their_documents_say() {
        let samples = "egress_x_total{a=\"1\",b=\"a\\\\b\\n\\\"c\\\"\"} 7\n";
        let rest = "# HELP egress_y Y.\n# TYPE egress_y gauge\negress_y 1.5\n\
                    # HELP egress_z_seconds Z.\n# TYPE egress_z_seconds histogram\n\
                    egress_z_seconds_bucket{le=\"0.25\"} 1\n\
                    egress_z_seconds_bucket{le=\"1.0\"} 2\n\
                    egress_z_seconds_bucket{le=\"+Inf\"} 3\n\
                    egress_z_seconds_sum 4.25\n\
                    egress_z_seconds_count 3\n";
        assert_eq!(
            written(Format::Prometheus),
            format!(
                "# HELP egress_x_total Says \"x\".\n# TYPE egress_x_total counter\n{samples}{rest}"
            )
        );
        assert_eq!(
            written(Format::OpenMetrics),
            format!(
                "# HELP egress_x Says \\\"x\\\".\n# TYPE egress_x counter\n{samples}{rest}# EOF\n"
            )
        );
    }

    #[test]
    fn a_scraper_gets_the_format_that_it_asks_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3";
        assert_eq!(Format::wanted(prometheus), Format::OpenMetrics);
        for other in ["", "*/*", "text/plain;version=0.0.4"] {
            assert_eq!(Format::wanted(other), Format::Prometheus);
        }
    }
}
