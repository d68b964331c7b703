//! The alerts of `deploy/monitoring`, and what they say about given series, judged by promtool.
//!
//! Owns the calls of promtool. The tests have the series.

use crate::scrape::{Sample, promtool_check};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A series and its values in promtool's notation, one a minute.
pub type Series = (String, String);

/// A file of `deploy/monitoring`.
pub fn file(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.with_file_name("deploy").join("monitoring").join(name)
}

/// The groups of the PrometheusRule, as JSON, which is YAML too.
pub fn groups(manifest: &Value) -> Result<String> {
    let spec = manifest.get("spec").context("no spec")?;
    Ok(spec.to_string())
}

/// The names of the alerts that fire after so many minutes.
pub fn firing(
    groups: &str,
    names: &[&str],
    series: &[Series],
    minutes: u32,
) -> Result<BTreeSet<String>> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("rules.json"), groups)?;
    let input: Vec<_> = series
        .iter()
        .map(|(series, values)| json!({"series": series, "values": values}))
        .collect();
    let fires = |name: &&&str| -> Result<bool> {
        let test = |firing: u8| {
            json!({
                "rule_files": ["rules.json"],
                "evaluation_interval": "1m",
                "tests": [{
                    "interval": "1m",
                    "input_series": input,
                    "promql_expr_test": [{
                        "expr": format!("count(count by (alertname) (ALERTS{{alertname=\"{name}\",alertstate=\"firing\"}})) or vector(0)"),
                        "eval_time": format!("{minutes}m"),
                        "exp_samples": [{"labels": "{}", "value": firing}],
                    }],
                }],
            })
        };
        let path = dir.path().join("test.json");
        let judged = |firing: u8| -> Result<String> {
            fs::write(&path, test(firing).to_string())?;
            promtool_check(&["test", "rules", &path.display().to_string()], "")
        };
        match (judged(1), judged(0)) {
            (Ok(_), Err(_)) => Ok(true),
            (Err(_), Ok(_)) => Ok(false),
            (one, other) => bail!("{name}: promtool says {one:?} and {other:?}"),
        }
    };
    let mut found = BTreeSet::new();
    for name in names {
        if fires(&name)? {
            found.insert((*name).to_owned());
        }
    }
    Ok(found)
}

/// Two scrapes as series: the values of the first at minute 0, then those of the second for so many minutes. `labels` are
/// those that Prometheus adds.
pub fn series(scrapes: [&[Sample]; 2], labels: &[(&str, &str)], minutes: u32) -> Vec<Series> {
    let [first, second] = scrapes;
    let of = |sample: &Sample| {
        let same = |other: &&Sample| other.name == sample.name && other.labels == sample.labels;
        let before = first.iter().find(same).map(|other| other.value);
        let own = sample.labels.iter().map(|(l, v)| (l.as_str(), v.as_str()));
        let labels: Vec<_> = own
            .chain(labels.iter().copied())
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let begin = before.map_or_else(|| "_".to_owned(), |value| value.to_string());
        let series = format!("{}{{{}}}", sample.name, labels.join(","));
        (series, format!("{begin} {}+0x{minutes}", sample.value))
    };
    second.iter().map(of).collect()
}
