//! The cases in which the gate differs from Envoy, each with a reason, and the page that names them.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

const BEGIN: &str =
    "<!-- parity: made by `EGRESS_BLESS=1 cargo test -p egress-agent --test parity` -->\n";
const END: &str = "<!-- end of parity -->\n";

/// Cases that differ for one reason.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    pub what: String,
    pub envoy: String,
    pub gate: String,
    pub reason: String,
    /// The aspects in which each of the cases differs, in all of them; a `*` at the end stands for any rest.
    pub differs: Vec<String>,
    pub cases: Vec<String>,
}

impl Difference {
    pub fn covers(&self, aspect: &str) -> bool {
        self.differs
            .iter()
            .any(|known| match known.strip_suffix('*') {
                Some(start) => aspect.starts_with(start),
                None => known == aspect,
            })
    }
}

/// The table.
pub fn all(file: &Path) -> Vec<Difference> {
    let text = std::fs::read_to_string(file).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

/// By the name of a case.
pub fn by_case(all: &[Difference]) -> BTreeMap<&str, Vec<&Difference>> {
    let mut found: BTreeMap<&str, Vec<&Difference>> = BTreeMap::new();
    for difference in all {
        for case in &difference.cases {
            found.entry(case).or_default().push(difference);
        }
    }
    found
}

/// Checks that the page has the table, or writes it there with `EGRESS_BLESS`.
pub fn page(file: &Path, all: &[Difference], compared: usize) {
    let mut made = format!(
        "{BEGIN}{compared} cases are compared. Those that differ:\n\n| case | Envoy | gate | why | cases |\n|---|---|---|---|---|\n"
    );
    for one in all {
        writeln!(
            made,
            "| {} | {} | {} | {} | {} |",
            one.what,
            one.envoy,
            one.gate,
            one.reason,
            one.cases.len()
        )
        .unwrap();
    }
    made += END;
    let page = std::fs::read_to_string(file).unwrap();
    let (before, rest) = page
        .split_once(BEGIN)
        .expect("the page has the table's first line");
    let (_, after) = rest
        .split_once(END)
        .expect("the page has the table's last line");
    let new = format!("{before}{made}{after}");
    if std::env::var_os("EGRESS_BLESS").is_some() {
        std::fs::write(file, new).unwrap();
        return;
    }
    assert!(
        new == page,
        "{} is old: run this test with EGRESS_BLESS=1",
        file.display()
    );
}
