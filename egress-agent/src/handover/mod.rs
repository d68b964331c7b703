//! One agent takes over from another: the leaving one goes on serving, hands its listening sockets to
//! the next, and stops accepting when that one is about to write its tables.
//!
//! ```text
//! next                                leaving (told to stop, lock released)
//!   takes the lock of the pins
//!   "here I am" + the lock ─────────►   is it the gate's lock, and held?
//!   ◄───────── every listening socket   denials are left to the next from here on
//!   loads, attaches, reads rules,
//!   restores leases, asks DNS           goes on accepting and serving
//!   "stop" ─────────────────────────►   stops accepting
//!   ◄───────────────────────── "done"   drains what it has, ends
//!   writes its tables, accepts
//! ```
//!
//! Whoever holds the lock writes the kernel's maps, so at any moment one process does. A next agent
//! that ends before "stop" changes nothing: the leaving one serves on.

mod channel;
mod inheritance;
mod leaving;
mod next;

pub use inheritance::{Inheritance, forget_unused};
pub use leaving::{Leaving, end, leave};

use std::path::{Path, PathBuf};

/// The Unix socket of a leaving agent, beside its admin socket.
fn socket_beside(admin_socket: &Path) -> PathBuf {
    admin_socket.with_extension("handover")
}
