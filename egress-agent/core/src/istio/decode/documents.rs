//! Where the documents of a file begin: at its `---` lines. Does not read them.

/// What an editor may put before a document; no part of it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Splits a stream at its `---` lines, so that one broken document does not hide the others.
pub(super) fn documents(text: &str, first_line: u32) -> Vec<(&str, u32)> {
    let mut parts = Vec::new();
    let (mut start, mut offset, mut part_line) = (0, 0, first_line);
    for (line, number) in text.split_inclusive('\n').zip(first_line..) {
        if begins_document(line) && offset > start {
            parts.push((&text[start..offset], part_line));
            (start, part_line) = (offset, number);
        }
        offset += line.len();
    }
    parts.push((&text[start..], part_line));
    parts
}

/// The length of the whole documents in the first `most` bytes of a text, or of its first document if that is longer.
pub fn documents_within(text: &str, most: usize) -> usize {
    let mut end = 0;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if begins_document(line) && offset > 0 {
            if offset > most {
                return if end > 0 { end } else { offset };
            }
            end = offset;
        }
        offset += line.len();
    }
    if text.len() > most && end > 0 {
        end
    } else {
        text.len()
    }
}

fn begins_document(line: &str) -> bool {
    line.trim_start_matches(BYTE_ORDER_MARK)
        .strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// The text without byte-order marks at the start of its lines, where YAML readers skip them; `None` if it has none.
pub(super) fn without_marks(text: &str) -> Option<String> {
    let lines = text.split_inclusive('\n');
    let bare = || lines.map(|line| line.trim_start_matches(BYTE_ORDER_MARK));
    text.contains(BYTE_ORDER_MARK).then(|| bare().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_documents() {
        let text = "a: 1\n---\nb: 2\n--- \nc: 3\n---d\n";
        for (most, length) in [
            (0, 5),
            (5, 5),
            (13, 5),
            (14, 14),
            (20, 14),
            (99, text.len()),
        ] {
            assert_eq!(documents_within(text, most), length, "{most}");
        }
        assert_eq!(documents_within("---\na: 1\n", 0), 9);
        assert_eq!(documents_within("", 0), 0);
    }
}
