//! A part's table as Markdown.
//!
//! Owns the form. `egress_tests::bench::page` puts it into a page of the documentation.

use crate::Part;
use crate::table::Table;
use anyhow::Result;
use egress_tests::bench::page::row;
use std::fmt::Write as _;

/// The part's heading, text and table. With `before`, each figure follows the figure of that agent.
pub fn section(part: &Part, now: &Table, before: Option<&Table>) -> Result<String> {
    let mut text = format!(
        "## {}\n\n{} {} at the end.{}\n\n",
        part.name,
        part.about,
        egress_tests::bench::machine()?,
        if before.is_some() {
            " Each cell: before → now."
        } else {
            ""
        }
    );
    text += &row("", part.columns.iter().map(ToString::to_string));
    text += &row("---", part.columns.iter().map(|_| "---:".to_owned()));
    for (what, cells) in beside(now, before) {
        text += &row(&what, cells.into_iter());
    }
    for (whose, table) in [("Before", before), ("Now", Some(now))] {
        let trouble = table.map(|table| &table.trouble[..]).unwrap_or_default();
        for why in trouble {
            let why = why.replace('\n', " ");
            writeln!(text, "\n{whose}: **failed**: {why}")?;
        }
    }
    Ok(text)
}

/// The rows of both tables. A missing figure is a dash.
fn beside(now: &Table, before: Option<&Table>) -> Vec<(String, Vec<String>)> {
    let Some(before) = before else {
        return now.rows.clone();
    };
    let find = |table: &Table, what: &str| {
        let row = table.rows.iter().find(|(name, _)| name == what);
        row.map(|(_, cells)| cells.clone())
    };
    let only_before = before.rows.iter();
    let only_before = only_before.filter(|(what, _)| find(now, what).is_none());
    let all = now.rows.iter().chain(only_before);
    all.map(|(what, _)| {
        let (old, new) = (find(before, what), find(now, what));
        let count = old.iter().chain(&new).map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Option<Vec<String>>, at: usize| {
            let cell = row.as_ref().and_then(|row| row.get(at));
            cell.map_or("–", String::as_str).to_owned()
        };
        let cells = (0..count).map(|at| format!("{} → {}", cell(&old, at), cell(&new, at)));
        (what.clone(), cells.collect())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, &str)]) -> Table {
        let row = |(what, cell): &(&str, &str)| ((*what).to_owned(), vec![(*cell).to_owned()]);
        Table {
            rows: rows.iter().map(row).collect(),
            trouble: Vec::new(),
        }
    }

    #[test]
    fn figures_of_two_agents_stand_side_by_side_and_none_is_lost() {
        let now = table(&[("a", "1 s"), ("b", "2 s")]);
        let before = table(&[("a", "9 s"), ("c", "8 s")]);
        let rows = beside(&now, Some(&before));
        let shown: Vec<_> = rows
            .iter()
            .map(|(w, c)| (w.as_str(), c[0].as_str()))
            .collect();
        assert_eq!(
            shown,
            [("a", "9 s → 1 s"), ("b", "– → 2 s"), ("c", "8 s → –")]
        );
        assert_eq!(beside(&now, None), now.rows);
    }
}
