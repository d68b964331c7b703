//! Errors that a user can act on, each with its exit code.
//!
//! All other errors are plain `anyhow` errors with the exit code [`UNEXPECTED`].

use std::fmt;

/// Exit code of a command that did its work and found something wrong, such as an invalid rule.
pub const FINDING: u8 = 1;
/// Exit code of `check --strict` if nothing is invalid, but a field is not carried out or a port is open to
/// any address.
pub const STRICT: u8 = 2;
/// Exit code of an error that no input caused (`EX_SOFTWARE` of sysexits.h). It differs from [`FINDING`],
/// which means that the command did its work.
pub const UNEXPECTED: u8 = 70;
/// Exit code of a kernel that is too old (`EX_OSERR` of sysexits.h).
pub const UNSUPPORTED: u8 = 71;
/// Exit code of bad usage or bad input (`EX_USAGE` of sysexits.h).
pub const USAGE: u8 = 64;
/// Exit code of `status` if no agent runs (`EX_UNAVAILABLE` of sysexits.h).
pub const ABSENT: u8 = 69;
/// Exit code of a second agent on one gate (`EX_TEMPFAIL` of sysexits.h).
pub const BUSY: u8 = 75;
/// Exit code of a missing privilege (`EX_NOPERM` of sysexits.h).
pub const PRIVILEGE: u8 = 77;

/// An error message in one line (what, where, what to do) and its exit code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code of the process.
    pub code: u8,
    /// The line, without the program's name; empty if everything was already written.
    pub message: String,
}

impl Failure {
    /// Bad usage or bad input.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self {
            code: USAGE,
            message: one_line(&message.to_string()),
        }
    }

    /// A privilege is missing.
    pub fn privilege(message: impl fmt::Display) -> Self {
        Self {
            code: PRIVILEGE,
            message: one_line(&message.to_string()),
        }
    }

    /// The kernel lacks what the gate needs.
    pub fn unsupported(message: impl fmt::Display) -> Self {
        Self {
            code: UNSUPPORTED,
            message: one_line(&message.to_string()),
        }
    }

    /// The command did its work and found something wrong.
    pub fn finding(message: impl fmt::Display) -> Self {
        Self {
            code: FINDING,
            message: one_line(&message.to_string()),
        }
    }

    /// The command did its work and found something that only `--strict` rejects.
    pub fn strict(message: impl fmt::Display) -> Self {
        Self {
            code: STRICT,
            message: one_line(&message.to_string()),
        }
    }

    /// The same without a message, which was already written.
    #[must_use]
    pub fn said(self) -> Self {
        Self {
            message: String::new(),
            ..self
        }
    }

    /// The command did its work, found something wrong, and has already written what.
    pub fn told() -> Self {
        Self {
            code: FINDING,
            message: String::new(),
        }
    }

    /// The exit code of an error.
    pub fn code_of(error: &anyhow::Error) -> u8 {
        error.downcast_ref::<Self>().map_or(UNEXPECTED, |f| f.code)
    }
}

/// Joins the lines of a message: libraries wrap theirs, and a log collector needs one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_exit_code_survives_added_context() {
        let wrapped = Err::<(), _>(Failure::privilege("no root"))
            .context("starting")
            .unwrap_err();
        assert_eq!(Failure::code_of(&wrapped), PRIVILEGE);
        assert_eq!(
            Failure::code_of(&anyhow::anyhow!("disk on fire")),
            UNEXPECTED
        );
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(Failure::usage("a\n  b").message, "a b");
    }
}
