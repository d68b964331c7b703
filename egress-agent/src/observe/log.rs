//! The destination and format of log lines. Each is one line, whatever its content. [`super::limit`]
//! limits their number.

use super::limit::{LineLimit, report_held_back};
use crate::config::{Log, LogFormat};
use crate::failure::Failure;
use crate::terminal;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::LazyLock;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

static LIMIT: LazyLock<LineLimit> = LazyLock::new(LineLimit::default);

/// Sends all log lines of this process to stderr from now on. Call it once.
pub fn init(log: &Log) -> Result<(), Failure> {
    let filter = filter(&log.filter)?;
    let lines = tracing_subscriber::registry().with(filter).with(&*LIMIT);
    let colours = terminal::colours(&io::stderr()) && log.format == LogFormat::Text;
    let to = move || OneLine {
        to: io::stderr(),
        colours,
    };
    let form = tracing_subscriber::fmt::layer()
        // The layer would panic if standard error is a closed pipe.
        .log_internal_errors(false)
        .with_writer(to);
    let done = match log.format {
        LogFormat::Text => {
            let form = form.with_ansi(colours).with_target(false);
            lines.with(form).try_init()
        }
        LogFormat::Json => lines.with(form.json().flatten_event(true)).try_init(),
    };
    done.map_err(|e| Failure::usage(format_args!("log: {e}")))
}

/// Reports how many lines were suppressed. Does not return.
pub async fn report_suppressed() {
    report_held_back(&LIMIT).await;
}

/// Escapes characters that would end the line or rewrite it on a terminal, because workloads choose the
/// names of processes, cgroups and files.
struct OneLine<W> {
    to: W,
    /// Whether to keep escape sequences. They are the formatter's, which escapes those in values.
    colours: bool,
}

impl<W: Write> Write for OneLine<W> {
    /// Takes a whole line: the formatter writes each in one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let (text, end) = match line.split_last() {
            Some((b'\n', text)) => (text, "\n"),
            _ => (line, ""),
        };
        let mut out = escaped(text, self.colours).into_owned();
        out.push_str(end);
        self.to.write_all(out.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Escapes as JSON does, so that a line of JSON stays valid.
fn escaped(text: &[u8], colours: bool) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(text);
    let harmful = |c: char| {
        let breaks = matches!(c, '\u{2028}' | '\u{2029}');
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        (c.is_control() && !(colours && c == '\u{1b}')) || breaks || turns
    };
    if !text.contains(harmful) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Each has at most four hex digits. Writing to a String does not fail.
            c if harmful(c) => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.into()
}

/// Logs an error that ends the agent, if the log is JSON. Returns an error that has only the exit code left;
/// with a text log, returns the error unchanged.
pub fn last_line(error: anyhow::Error, format: LogFormat) -> anyhow::Error {
    let code = Failure::code_of(&error);
    if format == LogFormat::Text {
        return error;
    }
    // An error before the log was set up needs a subscriber. Later ones find it set.
    let _ = init(&Log {
        format,
        filter: "info".to_owned(),
    });
    if !tracing::enabled!(tracing::Level::ERROR) {
        return error;
    }
    tracing::error!(exit_code = code, "{error:#}");
    Failure {
        code,
        message: String::new(),
    }
    .into()
}

fn filter(directives: &str) -> Result<EnvFilter, Failure> {
    let parse = |text: &str| EnvFilter::builder().parse(text);
    let chosen = parse(directives).map_err(|e| {
        Failure::usage(format_args!(
            "log.filter: `{directives}`: {e}; want a level or module=level,..."
        ))
    })?;
    // `notify` warns each time a ConfigMap is swapped, because a watched folder goes away.
    Ok(parse(&format!("notify=error,{directives}")).unwrap_or(chosen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(line: &str, colours: bool) -> String {
        let mut to = Vec::new();
        let mut one = OneLine {
            to: &mut to,
            colours,
        };
        one.write_all(line.as_bytes()).unwrap();
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn a_value_cannot_end_its_line_or_write_over_it() {
        for (value, shown) in [
            ("a\nWARN forged", r"a\nWARN forged"),
            ("a\r\tb", r"a\r\tb"),
            ("\u{1b}[2K\u{7f}\u{85}", r"\u001b[2K\u007f\u0085"),
            ("\u{202e}\u{2028}", r"\u202e\u2028"),
            ("h\u{e9}llo", "h\u{e9}llo"),
        ] {
            assert_eq!(written(&format!("{value}\n"), false), format!("{shown}\n"));
        }
        let colour = "\u{1b}[33m WARN\u{1b}[0m x\n";
        assert_eq!(written(colour, true), colour);
        let json = serde_json::json!({ "name": "a\u{85}\n" }).to_string();
        let read: serde_json::Value = serde_json::from_str(&written(&json, false)).unwrap();
        assert_eq!(read["name"], "a\u{85}\n");
    }

    #[test]
    fn a_filter_that_is_none_is_bad_input() {
        for good in ["info", "debug,hickory_resolver=warn", "off"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        let bad = filter("egress_agent=loud").unwrap_err();
        assert!(bad.message.contains("egress_agent=loud"), "{bad}");
    }
}
