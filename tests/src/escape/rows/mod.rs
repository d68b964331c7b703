//! The rows of the table, section by section.
//!
//! Owns the words and the expectation of each path, and the forms that an address may take. What
//! the columns mean stands in `table`.

mod datagrams;
mod forged;
mod forms;
mod kinds;
mod owners;
mod streams;

use super::table::Path;

const CONNECT: &str = "connect4/6";
const SENDMSG: &str = "sendmsg4/6";
const CREATE: &str = "sock_create";
const EGRESS: &str = "egress";
const ACCEPTED: &str = "an accepted connection is answered, whoever made it";
const NO_ROUTE: &str = "without the gate it goes nowhere else";

/// The page's sections.
pub static SECTIONS: &[(&str, &[Path])] = &[
    ("Streams", streams::STREAMS),
    ("Datagrams", datagrams::DATAGRAMS),
    ("Forged senders and answers", forged::FORGED),
    ("Other protocols", kinds::PROTOCOLS),
    ("io_uring", kinds::URING),
    ("Other socket families", kinds::FAMILIES),
    ("Old and borrowed sockets", owners::SOCKETS),
    ("The agent", owners::AGENT),
];
