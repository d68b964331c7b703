//! Values that a client or an origin chose, written so that they cannot end their line, leave their field or steer a
//! terminal.

use std::fmt::Write as _;

/// The most bytes of one value in a line.
const VALUE: usize = 8192;

/// Whether a character could end a line, rewrite it on a terminal or turn the direction of the text.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends a value to a line of text or to a string of JSON, without the quotes. Both are escaped in the same way, so
/// that a value cannot leave the quotes of Istio's text format either. A value of over 8 KiB is cut.
pub fn push(to: &mut String, value: &str) {
    let end = value.floor_char_boundary(VALUE);
    let (value, cut) = (&value[..end], end < value.len());
    if value.contains(|c| is_harmful(c) || matches!(c, '"' | '\\')) {
        value.chars().for_each(|c| push_char(to, c));
    } else {
        to.push_str(value);
    }
    if cut {
        to.push_str("...");
    }
}

fn push_char(to: &mut String, c: char) {
    match c {
        '"' => to.push_str("\\\""),
        '\\' => to.push_str("\\\\"),
        '\n' => to.push_str("\\n"),
        '\r' => to.push_str("\\r"),
        '\t' => to.push_str("\\t"),
        // Each has at most four hex digits. Writing to a String does not fail.
        c if is_harmful(c) => drop(write!(to, "\\u{:04x}", u32::from(c))),
        c => to.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_within_its_field() {
        for (value, shown) in [
            ("curl/8", "curl/8"),
            ("a\" 200 - \"b", "a\\\" 200 - \\\"b"),
            ("a\\", "a\\\\"),
            ("a\r\nforged", "a\\r\\nforged"),
            (
                "\u{1b}[2K\u{7f}\u{85}\u{202e}\u{2028}",
                "\\u001b[2K\\u007f\\u0085\\u202e\\u2028",
            ),
            ("h\u{e9}llo", "h\u{e9}llo"),
        ] {
            let mut text = String::new();
            push(&mut text, value);
            assert_eq!(text, shown);
            let read: String = serde_json::from_str(&format!("\"{text}\"")).unwrap();
            assert_eq!(read, value);
        }
        let mut text = String::new();
        push(&mut text, &"\u{e9}".repeat(VALUE));
        assert_eq!(text.len(), VALUE + 3);
    }
}
