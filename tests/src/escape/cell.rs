//! The suite's result for a path: one cell of the matrix, and its text.

use std::fmt;

/// The result of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing left.
    Closed,
    /// Something left.
    Open,
    /// This kernel has no such path.
    Missing,
    /// Not tried.
    Untried,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Missing => "not in this kernel",
            Self::Untried => "not tried",
        })
    }
}

/// One cell of the matrix.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The path's name.
    pub path: &'static str,
    /// `IPv4`, `IPv6`, or `-`.
    pub family: &'static str,
    /// What was seen.
    pub seen: Seen,
    /// Whether the result agrees with the table.
    pub agreed: bool,
    /// How the probe ended, or what went wrong.
    pub detail: String,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<27} {:<5} {:<19} {:<9} {}",
            self.path,
            self.family,
            self.seen,
            if self.agreed { "agreed" } else { "NOT SO" },
            self.detail
        )
    }
}
