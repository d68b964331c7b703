//! Output that is dropped without an error if its reader has closed the pipe, as in `status | head`.

use std::fmt;
use std::io::{self, ErrorKind, Write};

/// A writer to a pipe whose reader may close it. Later output is dropped, and the command ends as
/// it would have.
#[derive(Debug)]
pub struct Quiet<W> {
    to: W,
    left: bool,
}

impl<W: Write> Quiet<W> {
    /// Over any writer.
    pub fn new(to: W) -> Self {
        Self { to, left: false }
    }

    fn unless_left<T>(&mut self, done: io::Result<T>, instead: T) -> io::Result<T> {
        match done {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                self.left = true;
                Ok(instead)
            }
            done => done,
        }
    }
}

impl<W: Write> Write for Quiet<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left {
            return Ok(bytes.len());
        }
        let done = self.to.write(bytes);
        self.unless_left(done, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.left {
            return Ok(());
        }
        let done = self.to.flush();
        self.unless_left(done, ())
    }
}

/// Standard output.
pub fn stdout() -> Quiet<io::StdoutLock<'static>> {
    Quiet::new(io::stdout().lock())
}

/// Writes a line to standard error. Ignores a failure.
pub fn error(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pipe(usize);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(ErrorKind::BrokenPipe.into());
            }
            self.0 -= 1;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        let mut out = Quiet::new(Pipe(1));
        for _ in 0..3 {
            out.write_all(b"line\n").unwrap();
        }
        out.flush().unwrap();
    }
}
