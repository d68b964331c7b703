//! The nearest known name for a misspelt one.

use crate::istio::edits::edits;

/// The candidate that differs least from the word, if one is near enough to be what was meant.
pub fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    // Longer words would cost quadratic time for nothing: no field has such a name.
    if word.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let word = plain(word);
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .filter_map(|candidate| Some((edits(&word, &plain(candidate), limit)?, candidate)))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_field_finds_its_neighbour_and_a_strange_one_finds_none() {
        let fields = ["hosts", "timeout", "perTryTimeout", "match"];
        for (word, expected) in [
            ("timout", Some("timeout")),
            ("tiemout", Some("timeout")),
            ("TimeOut", Some("timeout")),
            ("per-try-timeout", Some("perTryTimeout")),
            ("host", Some("hosts")),
            ("mtach", Some("match")),
            ("websocketUpgrade", None),
        ] {
            assert_eq!(nearest(word, fields.into_iter()), expected, "{word}");
        }
    }
}
