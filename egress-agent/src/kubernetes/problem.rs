//! Why a request to the API server gave nothing.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

/// The most bytes of a server's own words in an error.
const SHOWN: usize = 300;

/// See the module. The text says what happened and, if the operator can mend it, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No connection.
    #[error("cannot connect to the API server: {0}")]
    Unreachable(String),
    /// The connection broke, or TLS failed.
    #[error("the connection to the API server failed: {0}")]
    Broken(String),
    /// The server accepted a request and did not answer.
    #[error("no answer from the API server within {} s", .0.as_secs())]
    Silent(Duration),
    /// The server ended a watch at once.
    #[error("the API server ends each watch at once")]
    NoWatch,
    /// The server does not know who asks.
    #[error("the API server does not accept the agent's credentials (401): {0}")]
    Unauthorized(String),
    /// The agent may not read this.
    #[error("access denied (403): {0}; allow it in the agent's role")]
    Forbidden(String),
    /// The kind is not installed.
    #[error("the API server does not serve this kind (404)")]
    NotServed,
    /// The position in the history is gone.
    #[error("the API server has dropped this part of the history (410)")]
    Expired,
    /// Another error status.
    #[error("the API server answered {0}: {1}")]
    Status(u16, String),
    /// The server asks to wait.
    #[error("the API server is overloaded ({0})")]
    Overloaded(u16, Option<Duration>),
    /// Not what an API server answers.
    #[error("malformed answer of the API server: {0}")]
    Malformed(String),
    /// Larger than the agent reads.
    #[error("an answer of the API server is larger than {} MiB", .0 >> 20)]
    TooLarge(usize),
}

impl Problem {
    /// Whether a new attempt costs no more than one refused connection, or the last one lasted so long that it was a
    /// pause: a server that hangs gets three requests a minute of a kind.
    pub(super) const fn is_cheap(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Silent(_))
    }

    /// Whether an object has changed meanwhile, or exists already.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Status(409, _))
    }

    /// What a client's error means.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>()
                && is_unreachable(error.kind())
            {
                return Self::Unreachable(words(&error.to_string()));
            }
            cause = error.source();
        }
        Self::Broken(whole(error))
    }

    /// What an error status means. `text` is the server's message.
    pub(super) fn status(code: u16, text: &str, wait: Option<Duration>) -> Self {
        let text = words(text);
        match code {
            401 => Self::Unauthorized(text),
            403 => Self::Forbidden(text),
            404 => Self::NotServed,
            410 => Self::Expired,
            429 | 503 => Self::Overloaded(code, wait),
            code => Self::Status(code, text),
        }
    }

    /// The body is not the expected JSON.
    pub(super) fn malformed(error: &serde_json::Error) -> Self {
        Self::Malformed(words(&error.to_string()))
    }
}

const fn is_unreachable(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable
    )
}

/// An error with its causes, which the client's errors leave out or repeat.
fn whole(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            let _ = write!(text, ": {part}");
        }
        cause = error.source();
    }
    words(&text)
}

/// One line of bounded length without control characters: the server wrote it.
fn words(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().map(clean).take(SHOWN).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_is_found_below_other_errors() {
        #[derive(Debug, thiserror::Error)]
        #[error("client error")]
        struct Outer(#[source] io::Error);
        let refused = Outer(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert!(Problem::of(&refused).is_cheap());
        let reset = Outer(io::Error::from(io::ErrorKind::ConnectionReset));
        let problem = Problem::of(&reset);
        assert_eq!(
            problem,
            Problem::Broken("client error: connection reset".to_owned())
        );
    }

    #[test]
    fn a_server_s_words_are_one_short_line() {
        let Problem::Status(500, text) = Problem::status(500, &"a\nb\u{1b}[31m".repeat(999), None)
        else {
            panic!("another problem")
        };
        assert!(text.chars().count() <= SHOWN + 1, "{}", text.len());
        assert!(!text.chars().any(char::is_control));
    }
}
