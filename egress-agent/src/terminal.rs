//! Decides whether output for people has colours. Writes nothing.

use std::env;
use std::ffi::OsStr;
use std::io::IsTerminal;

/// Whether this stream is a terminal that supports colours and whose user wants them.
pub fn colours(stream: &impl IsTerminal) -> bool {
    let (no_color, term) = (env::var_os("NO_COLOR"), env::var_os("TERM"));
    stream.is_terminal() && wanted(no_color.as_deref(), term.as_deref())
}

/// A non-empty `NO_COLOR` turns colours off (no-color.org). `TERM=dumb` has none.
fn wanted(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::wanted;
    use std::ffi::OsStr;

    #[test]
    fn no_color_and_a_dumb_terminal_have_no_colours() {
        for (no_color, term, want) in [
            (None, Some("xterm-256color"), true),
            (None, None, true),
            (Some(""), Some("xterm"), true),
            (Some("1"), Some("xterm"), false),
            (Some("0"), None, false),
            (None, Some("dumb"), false),
        ] {
            let got = wanted(no_color.map(OsStr::new), term.map(OsStr::new));
            assert_eq!(got, want, "{no_color:?} {term:?}");
        }
    }
}
