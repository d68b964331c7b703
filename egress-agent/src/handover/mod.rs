//! One agent takes over from another. The leaving agent goes on serving, hands its listening sockets to
//! the next one, and stops accepting when the next one is about to write its tables.
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
//! Only the process that holds the lock writes the kernel's maps. If the next agent ends before it sends
//! "stop", the leaving one goes on serving.

mod channel;
mod inheritance;
mod leaving;
mod next;
pub mod standby;

pub use inheritance::{Inheritance, forget_unused};
pub use leaving::{APPEARS, Leaving, end, leave};

use std::path::{Path, PathBuf};

/// The Unix socket of a leaving agent, beside its admin socket.
fn socket_beside(admin_socket: &Path) -> PathBuf {
    admin_socket.with_extension("handover")
}
