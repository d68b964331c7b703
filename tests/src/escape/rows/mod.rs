//! The rows of the table, section by section.
//!
//! Owns the text and the expectation of each path, and the forms of an address. `table` explains the columns.

mod claimed;
mod datagrams;
mod forged;
mod forms;
mod kinds;
mod owners;
mod streams;

use super::Aim;
use super::sock::Step;
use super::table::Path;

pub use claimed::SUITE_PROBES;

/// A probe by its name.
pub type Named = (&'static str, fn(&Aim) -> Step);

const CONNECT: &str = "connect4/6";
const SENDMSG: &str = "sendmsg4/6";
const CREATE: &str = "sock_create";
const EGRESS: &str = "egress";
const SETSOCKOPT: &str = "setsockopt";
const ACCEPTED: &str = "an accepted connection is answered, whatever its peer";
const NO_ROUTE: &str = "without the gate it goes nowhere else";

/// The page's sections.
pub static SECTIONS: &[(&str, &[Path])] = &[
    ("Streams", streams::STREAMS),
    ("Datagrams", datagrams::DATAGRAMS),
    ("Forged senders and answers", forged::FORGED),
    ("Claimed sources", claimed::CLAIMED),
    ("Other protocols", kinds::PROTOCOLS),
    ("io_uring", kinds::URING),
    ("Other socket families", kinds::FAMILIES),
    ("Old and borrowed sockets", owners::SOCKETS),
    ("The agent", owners::AGENT),
];
