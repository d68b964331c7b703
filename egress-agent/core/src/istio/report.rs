//! The findings in a file, as text for people and as JSON lines for machines.
//!
//! Only the rendering; the caller reads the files and writes the result.

use super::decode::{Decoded, Kind};
use super::message::{Message, Severity};
use super::validate::{Verdict, validate};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Longest part of a line that is shown, in characters.
const MAX_SHOWN: usize = 160;
/// Characters that are shown before the column of a message in a line that is too long.
const LEAD: usize = 60;

/// The findings of one file.
pub struct Report<'d> {
    source: &'d str,
    text: &'d str,
    decoded: &'d Decoded,
    /// Of each object, in order.
    found: Vec<Vec<Message>>,
}

/// One line of JSON.
#[derive(Serialize)]
struct Line<'d> {
    file: &'d str,
    document: Option<usize>,
    kind: Option<&'static str>,
    namespace: Option<&'d str>,
    name: Option<&'d str>,
    verdict: &'static str,
    messages: Vec<LineMessage<'d>>,
}

#[derive(Serialize)]
struct LineMessage<'d> {
    severity: String,
    field: &'d str,
    line: u32,
    column: u32,
    text: &'d str,
}

impl<'d> Report<'d> {
    /// Validates the objects of a file. `text` is the file that was decoded.
    pub fn new(source: &'d str, text: &'d str, decoded: &'d Decoded) -> Self {
        let found = decoded.objects.iter().map(validate).collect();
        Self {
            source,
            text,
            decoded,
            found,
        }
    }

    /// Adds a finding about an object, as of a comparison with others. An index that no object has
    /// is ignored.
    pub fn add(&mut self, object: usize, message: Message) {
        if let Some(found) = self.found.get_mut(object) {
            found.push(message);
        }
    }

    /// The verdict on one object; `Invalid` if there is no such object.
    pub fn object_verdict(&self, object: usize) -> Verdict {
        self.found
            .get(object)
            .map_or(Verdict::Invalid, |found| Verdict::of(found))
    }

    /// The worst verdict of the file.
    pub fn verdict(&self) -> Verdict {
        let of_file = Verdict::of(&self.decoded.messages);
        self.found
            .iter()
            .map(|found| Verdict::of(found))
            .fold(of_file, Verdict::max)
    }

    /// One line of JSON an object, and one with `kind: null` if something is wrong with the file
    /// itself. Documents of other kinds have none.
    pub fn json_lines(&self) -> String {
        let mut lines = String::new();
        if !self.decoded.messages.is_empty() {
            push_json(&mut lines, &self.line(None, &self.decoded.messages));
        }
        for (index, found) in self.found.iter().enumerate() {
            push_json(&mut lines, &self.line(Some(index), found));
        }
        lines
    }

    fn line(&self, object: Option<usize>, messages: &'d [Message]) -> Line<'d>
    where
        Self: 'd,
    {
        let object = object.and_then(|index| self.decoded.objects.get(index));
        Line {
            file: self.source,
            document: object.map(|object| object.document),
            kind: object.map(|object| Kind::as_str(object.kind)),
            namespace: object.map(|object| object.meta.namespace.as_str()),
            name: object.map(|object| object.meta.name.as_str()),
            verdict: Verdict::of(messages).as_str(),
            messages: messages
                .iter()
                .map(|message| LineMessage {
                    severity: message.severity.to_string(),
                    field: &message.field,
                    line: message.line,
                    column: message.column,
                    text: &message.text,
                })
                .collect(),
        }
    }

    /// Every message with the line that it is about and a caret below the column; then the
    /// documents that were skipped. Empty if there is nothing to say.
    pub fn text(&self, colour: bool) -> String {
        let mut lines = Lines::new(self.text);
        let mut out = String::new();
        for message in &self.decoded.messages {
            self.push_message(&mut out, message, &mut lines, "", colour);
        }
        for (object, found) in self.decoded.objects.iter().zip(&self.found) {
            let owner = object.to_string();
            for message in found {
                self.push_message(&mut out, message, &mut lines, &owner, colour);
            }
        }
        for skipped in &self.decoded.skipped {
            let note = Message {
                severity: Severity::Note,
                field: String::new(),
                line: skipped.line,
                column: 1,
                text: format!(
                    "{} is none of the kinds that are read; skipped",
                    skipped.what
                ),
            };
            self.push_head(&mut out, &note, colour);
        }
        out
    }

    fn push_head(&self, out: &mut String, message: &Message, colour: bool) {
        let (start, end) = if colour {
            (code(message.severity), "\x1b[0m")
        } else {
            ("", "")
        };
        let place = match (message.line, message.column) {
            (0, _) => String::new(),
            (line, column) => format!("{line}:{column}:"),
        };
        let field = if message.field.is_empty() {
            String::new()
        } else {
            format!("{}: ", plain(&message.field))
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{}:{place} {start}{}{end}: {field}{}",
            plain(self.source),
            message.severity,
            plain(&message.text)
        );
    }

    fn push_message(
        &self,
        out: &mut String,
        message: &Message,
        lines: &mut Lines<'_>,
        owner: &str,
        colour: bool,
    ) {
        self.push_head(out, message, colour);
        let index = usize::try_from(message.line)
            .ok()
            .and_then(|line| line.checked_sub(1));
        let column = usize::try_from(message.column).unwrap_or(1).max(1) - 1;
        if let Some((shown, caret)) = index.and_then(|index| lines.window(index, column)) {
            let (start, end) = if colour {
                (code(message.severity), "\x1b[0m")
            } else {
                ("", "")
            };
            let _ = writeln!(out, "{:>5} | {shown}", message.line);
            let _ = writeln!(out, "      | {}{start}^{end}", " ".repeat(caret));
        }
        if !owner.is_empty() {
            let _ = writeln!(out, "      = in {}", plain(owner));
        }
    }
}

fn push_json(lines: &mut String, line: &Line<'_>) {
    // Strings and numbers are all there is to write, so this cannot fail.
    if let Ok(json) = serde_json::to_string(line) {
        lines.push_str(&json);
        lines.push('\n');
    }
}

/// The escape sequence that a severity is coloured with.
fn code(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "\x1b[1;31m",
        Severity::Warning => "\x1b[1;33m",
        Severity::Note => "\x1b[1;36m",
    }
}

/// A text without control characters: a rules file must not write to the terminal's control channel.
fn plain(text: &str) -> String {
    text.chars().map(visible).collect()
}

fn visible(letter: char) -> char {
    match letter {
        '\t' => ' ',
        // The second range turns text around on a terminal.
        _ if letter.is_control()
            || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
        {
            '\u{fffd}'
        }
        _ => letter,
    }
}

/// The lines of a file. A file may be one line with thousands of messages, so no look at a line may
/// cost the line's length.
struct Lines<'t> {
    lines: Vec<&'t str>,
    /// Of lines that were looked at.
    rulers: BTreeMap<usize, Ruler>,
}

/// Where the characters of a line stand.
struct Ruler {
    /// The byte that every [`Ruler::STEP`]th character starts at.
    starts: Vec<usize>,
    /// Characters of the line.
    length: usize,
}

impl Ruler {
    const STEP: usize = 1024;

    fn new(line: &str) -> Self {
        let (mut starts, mut length) = (Vec::new(), 0);
        for (at, _) in line.char_indices() {
            if length % Self::STEP == 0 {
                starts.push(at);
            }
            length += 1;
        }
        Self { starts, length }
    }

    /// The line from a character on.
    fn from<'t>(&self, line: &'t str, character: usize) -> impl Iterator<Item = char> + use<'t> {
        let start = self.starts.get(character / Self::STEP).copied();
        let rest = start.and_then(|at| line.get(at..)).unwrap_or_default();
        rest.chars().skip(character % Self::STEP)
    }
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            lines: text.lines().collect(),
            rulers: BTreeMap::new(),
        }
    }

    /// The part of a line around a column, and where the column is in it. `None` if there is no such
    /// line.
    fn window(&mut self, index: usize, column: usize) -> Option<(String, usize)> {
        let line = *self.lines.get(index)?;
        let ruler = self.rulers.entry(index).or_insert_with(|| Ruler::new(line));
        let most = ruler.length.saturating_sub(MAX_SHOWN);
        let skip = column.saturating_sub(LEAD).min(most);
        let shown = ruler.from(line, skip).take(MAX_SHOWN).map(visible);
        Some((shown.collect(), column.saturating_sub(skip).min(MAX_SHOWN)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::istio::decode::decode;

    const TEXT: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a.com]\n  http:\n  - timeout: 0s\n    route: [{destination: {host: a.com}}]\n---\napiVersion: v1\nkind: Service\n";

    #[test]
    fn text_shows_the_line_with_a_caret_below_the_value() {
        let decoded = decode("rules.yaml", TEXT);
        let report = Report::new("rules.yaml", TEXT, &decoded);
        assert_eq!(
            report.text(false),
            "rules.yaml:7:14: error: spec.http[0].timeout: duration must be greater than 1ms\n\
             \x20   7 |   - timeout: 0s\n\
             \x20     |              ^\n\
             \x20     = in VirtualService default/a\n\
             rules.yaml:10:1: note: v1 Service is none of the kinds that are read; skipped\n"
        );
        assert!(report.text(true).contains("\x1b[1;31merror\x1b[0m"));
        assert_eq!(report.verdict(), Verdict::Invalid);
    }

    #[test]
    fn json_has_one_line_an_object_and_one_for_the_file() {
        let text = format!("{TEXT}---\n[\n");
        let decoded = decode("rules.yaml", &text);
        let lines: Vec<serde_json::Value> = Report::new("rules.yaml", &text, &decoded)
            .json_lines()
            .lines()
            .map(|line| serde_json::from_str(line).expect("each line is JSON"))
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["kind"], serde_json::Value::Null);
        assert_eq!(lines[0]["verdict"], "invalid");
        assert_eq!(
            lines[1],
            serde_json::json!({
                "file": "rules.yaml", "document": 0, "kind": "VirtualService", "namespace": "default", "name": "a",
                "verdict": "invalid",
                "messages": [{
                    "severity": "error", "field": "spec.http[0].timeout", "line": 7, "column": 14,
                    "text": "duration must be greater than 1ms"
                }]
            })
        );
    }

    #[test]
    fn a_file_cannot_write_control_characters_to_the_terminal() {
        let text = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: \"a\\e[2J\"}\nspec: {hosts: [\"\\e[31m\"], \"x\\e\": 1}\n";
        let decoded = decode("f", text);
        let shown = Report::new("f", text, &decoded).text(false);
        assert!(shown.contains("error"));
        assert!(!shown.contains('\x1b'), "{shown:?}");
    }

    #[test]
    fn a_long_line_is_shown_around_the_column() {
        for (before, after) in [(0, 1000), (1000, 1000), (5000, 10), (1023, 0), (1024, 0)] {
            let line = format!("{}X{}", "\u{e9}".repeat(before), "b".repeat(after));
            let (shown, caret) = Lines::new(&line)
                .window(0, before)
                .expect("there is a line");
            assert_eq!(shown.chars().count(), MAX_SHOWN, "{before}");
            assert_eq!(shown.chars().nth(caret), Some('X'), "{before}");
        }
        assert_eq!(Lines::new("a").window(0, 1), Some(("a".to_owned(), 1)));
        assert_eq!(Lines::new("").window(0, 0), None);
    }
}
