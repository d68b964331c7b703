//! A part's table as Markdown, and its place in a page of the documentation.
//!
//! Owns the form. A page has a pair of comments for each part, and the text between them is replaced.

use crate::Part;
use crate::table::Table;
use anyhow::{Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

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

fn row(what: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<_> = cells.collect();
    format!("| {what} | {} |\n", cells.join(" | "))
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

/// Replaces a part's section in a page.
pub fn put(page: &Path, name: &str, section: &str) -> Result<()> {
    let text = fs::read_to_string(page)?;
    Ok(fs::write(page, replaced(&text, name, section)?)?)
}

fn replaced(page: &str, name: &str, section: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- scale: {name} -->\n"),
        format!("<!-- end: {name} -->\n"),
    );
    let Some((head, rest)) = page.split_once(&begin) else {
        bail!("the page has no line `{}`", begin.trim());
    };
    let Some((_, tail)) = rest.split_once(&end) else {
        bail!("the page has no line `{}` after it", end.trim());
    };
    Ok(format!("{head}{begin}{section}{end}{tail}"))
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

    #[test]
    fn a_section_replaces_the_last_one_and_nothing_else() {
        let page = "# P\n<!-- scale: a -->\nold\n<!-- end: a -->\nrest\n";
        let made = replaced(page, "a", "new\n").unwrap();
        assert_eq!(made, "# P\n<!-- scale: a -->\nnew\n<!-- end: a -->\nrest\n");
        assert!(replaced(page, "b", "new\n").is_err());
    }
}
