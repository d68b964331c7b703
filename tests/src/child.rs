//! A process that ends with its guard, even if the test fails.

use std::io;
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command};

/// A running child. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Guarded(Child);

impl Guarded {
    /// Starts a command.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // If it has ended, the kill fails and another wait is harmless.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Deref for Guarded {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}
