//! The syntax of regular expressions as Go's `regexp` has it, which is RE2's.
//!
//! Only says whether an expression is valid, and if not, why, in Go's words; compiles and matches
//! nothing. Source: Go `src/regexp/syntax/parse.go`.

mod class;
mod unicode;

use super::check::Rule;

/// Longest expression that Istio takes, in bytes.
const MAX_LENGTH: usize = 1024;
/// Largest count in `x{n,m}`, and largest product of nested ones.
const MAX_REPEAT: u32 = 1000;

/// An expression as Istio checks it; `place` is the name of the field in the message.
pub fn expression(text: &str, place: &str) -> Rule {
    if text.len() > MAX_LENGTH {
        return Err(format!(
            "{place:?}: regex is too large, max length allowed is 1024"
        ));
    }
    Parser { all: text, rest: text, open: 0, depth_product: vec![1] }.parse().map_err(|(code, at)| {
        format!(
            "{place:?}: error parsing regexp: {code}: `{at}`; Istio uses RE2 style regex-based match (https://github.com/google/re2/wiki/Syntax)"
        )
    })
}

/// Go's name of the mistake, and the part of the expression that it is in.
type Mistake<'t> = (&'static str, &'t str);

struct Parser<'t> {
    all: &'t str,
    rest: &'t str,
    open: usize,
    /// For each open group, the largest product of repeat counts of a closed part in it.
    depth_product: Vec<u32>,
}

impl<'t> Parser<'t> {
    fn parse(mut self) -> Result<(), Mistake<'t>> {
        // What a repetition would apply to: nothing, something, or what is repeated already. The
        // number is the product of the counts in it.
        let mut operand: Option<u32> = None;
        let mut repeat_start: Option<&'t str> = None;
        while let Some(next) = self.rest.chars().next() {
            let before = self.rest;
            let mut repeat = None;
            match next {
                '(' => {
                    // Flags alone (`(?i)`) change nothing about what stands before them.
                    if self.group()? {
                        operand = None;
                    }
                }
                '|' => {
                    self.skip(1);
                    operand = None;
                }
                ')' => {
                    if self.open == 0 {
                        return Err(("unexpected )", self.all));
                    }
                    self.open -= 1;
                    self.skip(1);
                    let inner = self.depth_product.pop().unwrap_or(1);
                    operand = Some(self.seen(inner));
                }
                '[' => {
                    self.class()?;
                    operand = Some(self.seen(1));
                }
                '*' | '+' | '?' => {
                    self.skip(1);
                    self.lazy();
                    repeat = Some(before);
                    operand = Some(self.repeated(operand, before, repeat_start, 1)?);
                }
                '{' => match counts(self.rest) {
                    None => {
                        self.skip(1);
                        operand = Some(self.seen(1));
                    }
                    Some((counts, length)) => {
                        self.skip(length);
                        let Some(most) = counts else {
                            return Err(("invalid repeat count", &before[..length]));
                        };
                        self.lazy();
                        repeat = Some(before);
                        operand = Some(self.repeated(operand, before, repeat_start, most)?);
                    }
                },
                '\\' => {
                    self.escape_outside()?;
                    operand = Some(self.seen(1));
                }
                _ => {
                    self.skip(next.len_utf8());
                    operand = Some(self.seen(1));
                }
            }
            repeat_start = repeat;
        }
        if self.open > 0 {
            Err(("missing closing )", self.all))
        } else {
            Ok(())
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn lazy(&mut self) {
        self.rest = self.rest.strip_prefix('?').unwrap_or(self.rest);
    }

    /// Notes a part of the current group with its product of counts.
    fn seen(&mut self, product: u32) -> u32 {
        if let Some(largest) = self.depth_product.last_mut() {
            *largest = (*largest).max(product);
        }
        product
    }

    fn repeated(
        &mut self,
        operand: Option<u32>,
        before: &'t str,
        last: Option<&'t str>,
        count: u32,
    ) -> Result<u32, Mistake<'t>> {
        if let Some(last) = last {
            return Err((
                "invalid nested repetition operator",
                &last[..last.len() - self.rest.len()],
            ));
        }
        let operator = &before[..before.len() - self.rest.len()];
        let Some(inner) = operand else {
            return Err(("missing argument to repetition operator", operator));
        };
        let product = inner.saturating_mul(count.max(1));
        if product > MAX_REPEAT {
            return Err(("invalid repeat count", operator));
        }
        Ok(self.seen(product))
    }

    /// `(`, `(?:`, `(?P<name>`, `(?<name>`, `(?flags)` or `(?flags:`. Returns whether a group opened.
    fn group(&mut self) -> Result<bool, Mistake<'t>> {
        let start = self.rest;
        if !start.starts_with("(?") {
            self.skip(1);
            self.enter();
            return Ok(true);
        }
        let name_start = if start.starts_with("(?P<") && start.len() > 4 {
            Some(4)
        } else {
            (start.starts_with("(?<") && start.len() > 3).then_some(3)
        };
        if let Some(name_start) = name_start {
            let Some(end) = start.find('>') else {
                return Err(("invalid named capture", start));
            };
            let name = &start[name_start..end];
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(("invalid named capture", &start[..=end]));
            }
            self.skip(end + 1);
            self.enter();
            return Ok(true);
        }
        let (mut negated, mut saw_flag) = (false, false);
        for (at, letter) in start.char_indices().skip(2) {
            match letter {
                'i' | 'm' | 's' | 'U' => saw_flag = true,
                '-' if !negated => (negated, saw_flag) = (true, false),
                ':' | ')' if !negated || saw_flag => {
                    self.skip(at + 1);
                    if letter == ':' {
                        self.enter();
                    }
                    return Ok(letter == ':');
                }
                _ => {
                    return Err((
                        "invalid or unsupported Perl syntax",
                        &start[..at + letter.len_utf8()],
                    ));
                }
            }
        }
        Err(("missing argument to repetition operator", "?"))
    }

    fn enter(&mut self) {
        self.open += 1;
        self.depth_product.push(1);
    }
}

/// Reads `{n}`, `{n,}` or `{n,m}`: the larger number, or `None` if they are too big or in the wrong
/// order, and the length. Anything else is not a repetition but text.
fn counts(text: &str) -> Option<(Option<u32>, usize)> {
    let end = text.find('}')?;
    let inner = &text[1..end];
    let number = |digits: &str| {
        let canonical = digits == "0" || !digits.starts_with('0');
        (!digits.is_empty() && canonical && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse::<u32>().unwrap_or(u32::MAX))
    };
    let (low, high) = match inner.split_once(',') {
        None => (number(inner)?, number(inner)?),
        Some((low, "")) => (number(low)?, number(low)?),
        Some((low, high)) => (number(low)?, number(high)?),
    };
    let fits = low <= MAX_REPEAT && high <= MAX_REPEAT && low <= high;
    Some((fits.then_some(high), end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> String {
        expression(text, "uri")
            .err()
            .map_or(String::new(), |reason| {
                reason
                    .trim_start_matches("\"uri\": error parsing regexp: ")
                    .split("; Istio")
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            })
    }

    #[test]
    fn expressions_that_go_compiles_are_accepted() {
        for text in [
            "",
            "a",
            "a|b",
            "(a)(?:b)(?P<n>c)(?<m>d)",
            "(?i)a",
            "(?i-s:a)",
            "[a-z]",
            "[]a]",
            "[^]a]",
            "[a-]",
            "[-a]",
            "[[:alpha:]_]",
            "[\\d\\w-]",
            "\\pL\\p{Greek}\\P{^Lu}",
            "a*?b+?c??",
            "a{2}b{2,}c{2,3}?",
            "a{,2}",
            "{",
            "a{",
            "\\.\\/\\-",
            "\\x41\\x{10FFFF}\\012",
            "\\Q*+\\E",
            "\\Qabc",
            "^$",
            "|",
            "()",
            "(|a)*",
            "^*",
            "(a{100}){10}",
            "/v[1-3]/(?:foo|bar)/.*",
            "\u{e9}+",
        ] {
            assert_eq!(reason(text), "", "{text}");
        }
    }

    #[test]
    fn expressions_that_go_refuses_are_refused_in_its_words() {
        for (text, expected) in [
            ("*", "missing argument to repetition operator: `*`"),
            ("a|*", "missing argument to repetition operator: `*`"),
            ("(*)", "missing argument to repetition operator: `*`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a*+", "invalid nested repetition operator: `*+`"),
            ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
            ("[", "missing closing ]: `[`"),
            ("[a", "missing closing ]: `[a`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
            ("(", "missing closing ): `(`"),
            ("a)", "unexpected ): `a)`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?!a)", "invalid or unsupported Perl syntax: `(?!`"),
            ("(?<=a)", "invalid named capture: `(?<=a)`"),
            ("(?P<n-m>a)", "invalid named capture: `(?P<n-m>`"),
            ("\\1", "invalid escape sequence: `\\1`"),
            ("\\y", "invalid escape sequence: `\\y`"),
            ("\\", "trailing backslash at end of expression: ``"),
            ("\\p{Nope}", "invalid character class range: `\\p{Nope}`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("a{3,2}", "invalid repeat count: `{3,2}`"),
            ("(a{100}){11}", "invalid repeat count: `{11}`"),
        ] {
            assert_eq!(reason(text), expected, "{text}");
        }
        assert!(expression(&"a".repeat(1025), "uri").is_err());
    }
}
