//! Names of Unicode classes that Go's regular expressions know: categories and scripts.

use regex_syntax::Parser;
use regex_syntax::hir::{Class, Hir, HirKind};

/// `\p` and a name. The kind is said because the library looks a name up in all its properties.
fn property(name: &str) -> String {
    match name {
        "Any" => r"\p{Any}".to_owned(),
        category if category.len() <= 2 => format!(r"\p{{gc={category}}}"),
        script => format!(r"\p{{sc={script}}}"),
    }
}

/// The Latin-1 characters of a class, or all others, as a class of bytes.
pub fn latin_class(name: &str, positive: bool) -> String {
    let mut class = String::from(if positive { "[" } else { "[^" });
    let parsed = Parser::new().parse(&property(name));
    if let Ok(HirKind::Class(Class::Unicode(found))) = parsed.map(Hir::into_kind) {
        let latin = found.iter().filter(|range| range.start() <= '\u{ff}');
        for range in latin {
            let end = range.end().min('\u{ff}');
            class.extend([byte(range.start().into()), "-".into(), byte(end.into())]);
        }
    }
    // The library has no empty brackets, and this is a class without characters.
    if class.len() <= 2 {
        class += r"[^\x00-\xff]";
    }
    class.push(']');
    class
}

/// The escape of a byte.
pub fn byte(value: u32) -> String {
    format!(r"\x{value:02x}")
}

/// Whether `\p{name}` is a class. Go takes the exact names only, and of the properties only
/// general categories and scripts.
pub fn is_class(name: &str) -> bool {
    if name == "Any" {
        return true;
    }
    let looks_so = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
    // Long names of categories (`Letter`) are no names to Go; scripts have long names only.
    looks_so && Parser::new().parse(&property(name)).is_ok()
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
