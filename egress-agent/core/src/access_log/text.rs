//! Texts with commands, for both encodings, and what is wrong about a format.

use super::command::Command;
use super::entry::Entry;
use crate::http::format::{Piece, UnknownCommand};

/// Why a text is not a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFormat {
    /// A command that is not known here.
    #[error("{0}")]
    Unknown(#[from] UnknownCommand),
    /// Over 16 KiB.
    #[error("is longer than 16 KiB")]
    TooLong,
    /// Over 100 commands.
    #[error("has more than 100 commands")]
    TooMany,
    /// It would write several lines for one request.
    #[error("has a line break before its end")]
    LineBreak,
    /// Not JSON, for this reason.
    #[error("is not JSON: {0}")]
    Json(String),
    /// JSON, but no object.
    #[error("is not a JSON object")]
    NoObject,
}

/// Calls `to` with each command.
pub(super) fn commands(pieces: &[Piece<Command>], to: &mut impl FnMut(&Command)) {
    for piece in pieces {
        if let Piece::Command(command) = piece {
            to(command);
        }
    }
}

/// Appends pieces, with `-` for a value that the entry does not have. `literal` appends the format's own text.
pub(super) fn push_pieces(
    pieces: &[Piece<Command>],
    entry: &Entry<'_>,
    to: &mut String,
    literal: impl Fn(&mut String, &str),
) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => literal(to, text),
            Piece::Command(command) => {
                if !command.push(entry, to) {
                    to.push('-');
                }
            }
        }
    }
}
