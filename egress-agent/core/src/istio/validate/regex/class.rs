//! Escapes and character classes of regular expressions.

use super::unicode::{is_class, latin_class};
use super::{Mistake, Parser};

/// The class of a Perl escape. RE2's have ASCII characters only, and its `\s` has no vertical tab.
fn perl_class(letter: char) -> Option<&'static str> {
    Some(match letter {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        's' => r"[\t\n\f\r\x20]",
        'S' => r"[^\t\n\f\r\x20]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        _ => return None,
    })
}

impl<'t> Parser<'t> {
    /// An escape outside of a class.
    pub(super) fn escape_outside(&mut self) -> Result<(), Mistake<'t>> {
        let mut letters = self.rest.chars().skip(1);
        let letter = letters.next();
        let written = match letter {
            Some('A') => Some(r"\A"),
            Some('z') => Some(r"\z"),
            // The library gives `\b{` a meaning of its own.
            Some('b') => Some(r"(?:\b)"),
            Some('B') => Some(r"(?:\B)"),
            other => other.and_then(perl_class),
        };
        if let Some(written) = written {
            self.skip(2);
            self.out.push_str(written);
            return Ok(());
        }
        match letter {
            Some('C') => Err(("invalid escape sequence", &self.rest[..2])),
            Some('Q') => {
                let quoted = &self.rest[2..];
                let (quoted, rest) = quoted.split_once("\\E").unwrap_or((quoted, ""));
                self.rest = rest;
                quoted.chars().for_each(|letter| self.text(letter));
                Ok(())
            }
            Some('p' | 'P') => self.unicode_class(),
            Some(_) | None => {
                let letter = self.escape()?;
                self.literal(letter);
                Ok(())
            }
        }
    }

    /// An escape of a single character, in a class or outside.
    fn escape(&mut self) -> Result<char, Mistake<'t>> {
        let start = self.rest;
        let mut letters = start.chars().skip(1);
        let Some(letter) = letters.next() else {
            return Err(("trailing backslash at end of expression", ""));
        };
        let after = start.get(1 + letter.len_utf8()..).unwrap_or_default();
        let wrong = |rest: &'t str| {
            Err((
                "invalid escape sequence",
                &start[..start.len() - rest.len()],
            ))
        };
        let (value, rest) = match letter {
            '1'..='7' if !after.starts_with(|c: char| ('0'..='7').contains(&c)) => {
                return wrong(after);
            }
            '0'..='7' => {
                let extra = after
                    .bytes()
                    .take(2)
                    .take_while(|b| (b'0'..=b'7').contains(b))
                    .count();
                let digits = &start[1..2 + extra];
                let value = u32::from_str_radix(digits, 8).ok();
                self.untranslated |= value.is_some_and(|value| value > 0xff);
                (value.and_then(char::from_u32), &after[extra..])
            }
            'x' => return self.hexadecimal(start, after),
            'a' => (Some('\u{7}'), after),
            'f' => (Some('\u{c}'), after),
            'n' => (Some('\n'), after),
            'r' => (Some('\r'), after),
            't' => (Some('\t'), after),
            'v' => (Some('\u{b}'), after),
            _ if letter.is_ascii() && !letter.is_ascii_alphanumeric() => (Some(letter), after),
            _ => return wrong(after),
        };
        let Some(value) = value else {
            return wrong(rest);
        };
        self.rest = rest;
        Ok(value)
    }

    /// `\x7f` or `\x{10FFFF}`.
    fn hexadecimal(&mut self, start: &'t str, after: &'t str) -> Result<char, Mistake<'t>> {
        let wrong = |rest: &'t str| {
            Err((
                "invalid escape sequence",
                &start[..start.len() - rest.len()],
            ))
        };
        let (digits, rest) = if let Some(braced) = after.strip_prefix('{') {
            let Some((digits, rest)) = braced.split_once('}') else {
                return wrong("");
            };
            (digits, rest)
        } else {
            match after.split_at_checked(2) {
                Some(split) => split,
                None => return wrong(""),
            }
        };
        let is_hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let value = if is_hex {
            u32::from_str_radix(digits, 16).ok()
        } else {
            None
        };
        let Some(value) = value.filter(|value| *value <= 0x0010_FFFF) else {
            return wrong(rest);
        };
        self.rest = rest;
        self.untranslated |= value > 0xff;
        // Go allows surrogates here; as the end of a range they only need to have an order.
        Ok(char::from_u32(value).unwrap_or('\u{d7ff}'))
    }

    /// `\pL`, `\p{Greek}`, `\P{^Greek}`.
    fn unicode_class(&mut self) -> Result<(), Mistake<'t>> {
        let start = self.rest;
        let after = &start[2..];
        let (name, rest) = if let Some(braced) = after.strip_prefix('{') {
            let Some((name, rest)) = braced.split_once('}') else {
                return Err(("invalid character class range", start));
            };
            (name, rest)
        } else {
            let Some(letter) = after.chars().next() else {
                // A `\p` at the very end is an escape like any other, and no valid one.
                return Err(("invalid escape sequence", start));
            };
            after.split_at(letter.len_utf8())
        };
        let (inverse, name) = match name.strip_prefix('^') {
            Some(name) => (true, name),
            None => (false, name),
        };
        if !is_class(name) {
            return Err((
                "invalid character class range",
                &start[..start.len() - rest.len()],
            ));
        }
        let positive = start.starts_with("\\p") != inverse;
        self.out.push_str(&latin_class(name, positive));
        self.rest = rest;
        Ok(())
    }

    /// `[...]`.
    pub(super) fn class(&mut self) -> Result<(), Mistake<'t>> {
        let start = self.rest;
        self.skip(1);
        self.out.push('[');
        if let Some(rest) = self.rest.strip_prefix('^') {
            self.rest = rest;
            self.out.push('^');
        }
        let mut first = true;
        while first || !self.rest.starts_with(']') {
            if self.rest.is_empty() {
                return Err(("missing closing ]", start));
            }
            // POSIX: a hyphen stands first, last or in a range. Perl takes it anywhere, as Go does.
            first = false;
            if self.rest.starts_with("[:")
                && let Some(end) = self.rest.find(":]")
            {
                let name = &self.rest[..end + 2];
                if !is_posix_class(&name[2..name.len() - 2]) {
                    return Err(("invalid character class range", name));
                }
                self.out.push_str(name);
                self.skip(end + 2);
                continue;
            }
            let mut letters = self.rest.chars();
            match (letters.next(), letters.next()) {
                (Some('\\'), Some('p' | 'P')) => {
                    self.unicode_class()?;
                    continue;
                }
                (Some('\\'), Some(letter)) if let Some(class) = perl_class(letter) => {
                    self.out.push_str(class);
                    self.skip(2);
                    continue;
                }
                _ => {}
            }
            let range = self.rest;
            let low = self.class_char(start)?;
            let last = self.ends(range, low).1;
            if self.rest.starts_with('-') && self.rest.len() >= 2 && !self.rest.starts_with("-]") {
                self.skip(1);
                let end = self.rest;
                let high = self.class_char(start)?;
                if high < low {
                    return Err((
                        "invalid character class range",
                        &range[..range.len() - self.rest.len()],
                    ));
                }
                self.out.push('-');
                let first = self.ends(end, high).0;
                self.untranslated |= first < last;
            }
        }
        self.skip(1);
        self.out.push(']');
        Ok(())
    }

    /// Writes an element of a class that begins so, an escape or a character by its bytes, each of which is an element.
    /// Returns the first and the last.
    fn ends(&mut self, start: &str, letter: char) -> (u32, u32) {
        if start.starts_with('\\') {
            self.literal(letter);
            return (letter.into(), letter.into());
        }
        self.text(letter);
        let mut bytes = [0; 4];
        let bytes = letter.encode_utf8(&mut bytes).as_bytes();
        let end = |byte: Option<&u8>| byte.copied().unwrap_or_default().into();
        (end(bytes.first()), end(bytes.last()))
    }

    fn class_char(&mut self, class: &'t str) -> Result<char, Mistake<'t>> {
        match self.rest.chars().next() {
            None => Err(("missing closing ]", class)),
            Some('\\') => self.escape(),
            Some(letter) => {
                self.skip(letter.len_utf8());
                Ok(letter)
            }
        }
    }
}

fn is_posix_class(name: &str) -> bool {
    matches!(
        name.strip_prefix('^').unwrap_or(name),
        "alnum"
            | "alpha"
            | "ascii"
            | "blank"
            | "cntrl"
            | "digit"
            | "graph"
            | "lower"
            | "print"
            | "punct"
            | "space"
            | "upper"
            | "word"
            | "xdigit"
    )
}
