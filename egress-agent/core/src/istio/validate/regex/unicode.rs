//! Names of Unicode classes that Go's regular expressions know: categories and scripts.

use regex_syntax::ParserBuilder;

/// Whether `\p{name}` is a class. Go takes the exact names only, and of the properties only
/// general categories and scripts.
pub fn is_class(name: &str) -> bool {
    if name == "Any" {
        return true;
    }
    let looks_so = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
    // Long names of categories (`Letter`) are no names to Go; scripts have long names only.
    let is_category = name.len() <= 2;
    let known = |expression: String| ParserBuilder::new().build().parse(&expression).is_ok();
    looks_so
        && (if is_category {
            known(format!("\\p{{gc={name}}}"))
        } else {
            known(format!("\\p{{sc={name}}}"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_and_scripts_are_known_by_their_go_names() {
        for (name, known) in [
            ("L", true),
            ("Lu", true),
            ("Greek", true),
            ("Han", true),
            ("Any", true),
            ("greek", false),
            ("Nope", false),
            ("", false),
            ("Letter", false),
        ] {
            assert_eq!(is_class(name), known, "{name}");
        }
    }
}
