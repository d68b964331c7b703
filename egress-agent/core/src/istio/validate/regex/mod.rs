//! The syntax of regular expressions as Go's `regexp` has it, which is RE2's.
//!
//! Says whether an expression is valid, and if not, why, in Go's words, and writes a valid one in the syntax of the
//! library `regex`. Compiles and matches nothing. Source: Go `src/regexp/syntax/parse.go`.

mod class;
mod unicode;

use super::check::Rule;
use regex_syntax::escape_into;
use unicode::byte;

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
    let parsed = Parser::of(text).parse();
    parsed.map(|_| ()).map_err(|(code, at)| {
        format!(
            "{place:?}: error parsing regexp: {code}: `{at}`; Istio uses RE2 style regex-based match (https://github.com/google/re2/wiki/Syntax)"
        )
    })
}

/// An expression with the same meaning in the syntax of the library `regex` without Unicode, where classes and brackets
/// mean other things. Envoy's RE2 reads expressions and values as Latin-1, so each byte of both is a character. Groups
/// keep their numbers and lose their names. `None` if the expression is invalid, or has a character that is not Latin-1
/// as an escape, which RE2 rejects.
pub(crate) fn translated(text: &str) -> Option<String> {
    Parser::of(text).parse().ok()?
}

/// Go's name of the mistake, and the part of the expression that it is in.
type Mistake<'t> = (&'static str, &'t str);

struct Parser<'t> {
    all: &'t str,
    rest: &'t str,
    open: usize,
    /// For each open group, the largest product of repeat counts of a closed part in it.
    depth_product: Vec<u32>,
    /// The translation of what is read.
    out: String,
    /// Something has no translation.
    untranslated: bool,
}

impl<'t> Parser<'t> {
    fn of(text: &'t str) -> Self {
        Self {
            all: text,
            rest: text,
            open: 0,
            depth_product: vec![1],
            out: String::with_capacity(text.len()),
            untranslated: false,
        }
    }

    /// Returns the translation, if there is one.
    fn parse(mut self) -> Result<Option<String>, Mistake<'t>> {
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
                    self.copy(1);
                    operand = None;
                }
                ')' => {
                    if self.open == 0 {
                        return Err(("unexpected )", self.all));
                    }
                    self.open -= 1;
                    self.copy(1);
                    let inner = self.depth_product.pop().unwrap_or(1);
                    operand = Some(self.seen(inner));
                }
                '[' => {
                    self.class()?;
                    operand = Some(self.seen(1));
                }
                '*' | '+' | '?' => {
                    self.copy(1);
                    self.lazy();
                    repeat = Some(before);
                    operand = Some(self.repeated(operand, before, repeat_start, 1)?);
                }
                '{' => match counts(self.rest) {
                    None => {
                        self.skip(1);
                        self.literal('{');
                        operand = Some(self.seen(1));
                    }
                    Some((counts, length)) => {
                        self.copy(length);
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
                '.' | '^' | '$' => {
                    self.copy(1);
                    operand = Some(self.seen(1));
                }
                _ => {
                    self.skip(next.len_utf8());
                    self.text(next);
                    operand = Some(self.seen(1));
                }
            }
            repeat_start = repeat;
        }
        if self.open > 0 {
            Err(("missing closing )", self.all))
        } else {
            Ok((!self.untranslated).then_some(self.out))
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    /// Passes over a part that both syntaxes have.
    fn copy(&mut self, bytes: usize) {
        self.out.push_str(&self.rest[..bytes]);
        self.skip(bytes);
    }

    /// Writes a character of the expression that stands for itself, by its bytes.
    fn text(&mut self, letter: char) {
        for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
            self.literal(byte.into());
        }
    }

    /// Writes a character of the values, in a class or outside.
    fn literal(&mut self, letter: char) {
        if letter.is_ascii() {
            escape_into(letter.encode_utf8(&mut [0; 4]), &mut self.out);
        } else {
            self.out.push_str(&byte(u32::from(letter)));
        }
    }

    fn lazy(&mut self) {
        if self.rest.starts_with('?') {
            self.copy(1);
        }
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
            self.copy(1);
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
            self.out.push('(');
            self.enter();
            return Ok(true);
        }
        // The library takes each flag once.
        let mut flags = [('i', None), ('m', None), ('s', None), ('U', None)];
        let (mut negated, mut saw_flag) = (false, false);
        for (at, letter) in start.char_indices().skip(2) {
            match letter {
                'i' | 'm' | 's' | 'U' => {
                    saw_flag = true;
                    for (_, set) in flags.iter_mut().filter(|(flag, _)| *flag == letter) {
                        *set = Some(!negated);
                    }
                }
                '-' if !negated => (negated, saw_flag) = (true, false),
                ':' | ')' if !negated || saw_flag => {
                    self.skip(at + 1);
                    self.flags(&flags, letter);
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

    /// Writes flags and what follows them, `:` or `)`.
    fn flags(&mut self, flags: &[(char, Option<bool>)], end: char) {
        let of = |on: bool| flags.iter().filter(move |(_, set)| *set == Some(on));
        let (on, off) = (of(true).count(), of(false).count());
        if on + off == 0 && end == ')' {
            return;
        }
        self.out.push_str("(?");
        self.out.extend(of(true).map(|(flag, _)| flag));
        if off > 0 {
            self.out.push('-');
            self.out.extend(of(false).map(|(flag, _)| flag));
        }
        self.out.push(end);
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
mod tests;
