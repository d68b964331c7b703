//! A table of a bench in a page of the documentation.
//!
//! Owns the place: a page has a pair of comments for each part of a bench, and the text between them is replaced.

use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;

/// A row of a Markdown table.
pub fn row(what: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<_> = cells.collect();
    format!("| {what} | {} |\n", cells.join(" | "))
}

/// The median of some figures, the smallest and the largest.
pub fn spread(all: &mut [f64]) -> String {
    all.sort_by(f64::total_cmp);
    match all {
        [] => "–".to_owned(),
        [one] => number(*one),
        [min, .., max] => {
            let (min, max) = (number(*min), number(*max));
            format!("{} ({min} to {max})", number(all[all.len() / 2]))
        }
    }
}

/// Three digits are enough, because rounds differ by more.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Replaces the section of a bench's part in a page.
pub fn put(page: &Path, bench: &str, part: &str, section: &str) -> Result<()> {
    let write = || -> Result<()> {
        let text = fs::read_to_string(page)?;
        Ok(fs::write(page, replaced(&text, bench, part, section)?)?)
    };
    write().with_context(|| format!("writing {}", page.display()))
}

fn replaced(page: &str, bench: &str, part: &str, section: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- {bench}: {part} -->\n"),
        format!("<!-- end: {part} -->\n"),
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

    #[test]
    fn a_section_replaces_the_last_one_and_nothing_else() {
        let page = "# P\n<!-- scale: a -->\nold\n<!-- end: a -->\nrest\n";
        let made = replaced(page, "scale", "a", "new\n").unwrap();
        assert_eq!(made, "# P\n<!-- scale: a -->\nnew\n<!-- end: a -->\nrest\n");
        assert!(replaced(page, "scale", "b", "new\n").is_err());
        assert!(replaced(page, "proxy", "a", "new\n").is_err());
    }
}
