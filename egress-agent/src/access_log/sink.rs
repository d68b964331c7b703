//! The open file, pipe or standard stream that lines are written to. A write to it takes a bounded time, unless a disk
//! hangs.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::fcntl_dupfd_cloexec;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// How long a write waits for the reader of a pipe.
const WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
/// A pipe that is ready takes so many bytes at once (pipe(7), `PIPE_BUF`).
const PIPE: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    /// Device and inode of a regular file. `None` for a stream.
    identity: Option<(u64, u64)>,
}

impl Sink {
    /// Opens the target. Does not wait for a reader of a FIFO: without one it is an error.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // Opened anew, a socket as standard output would be an error, and its flags are shared with other processes.
        let standard = match path.to_str() {
            Some("/dev/stdout") => Some(fcntl_dupfd_cloexec(io::stdout(), 3)?),
            Some("/dev/stderr") => Some(fcntl_dupfd_cloexec(io::stderr(), 3)?),
            _ => None,
        };
        let file = match standard {
            Some(standard) => File::from(standard),
            None => OpenOptions::new()
                .append(true)
                .create(true)
                // Requests may tell secrets in their paths.
                .mode(0o640)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(path)?,
        };
        let meta = file.metadata()?;
        if meta.file_type().is_block_device() {
            return Err(io::Error::other("is a block device"));
        }
        let identity = meta.is_file().then(|| identity(&meta));
        Ok(Self { file, identity })
    }

    /// Whether the path no longer leads to this file.
    pub(super) fn moved(&self, path: &Path) -> bool {
        self.identity.is_some() && {
            let now = std::fs::metadata(path).ok();
            now.map(|meta| identity(&meta)) != self.identity
        }
    }

    /// Writes some of the bytes. `WouldBlock` if the reader took none for a while.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.identity.is_some() {
            return self.file.write(bytes);
        }
        let mut ready = [PollFd::new(&self.file, PollFlags::OUT)];
        if poll(&mut ready, Some(&WAIT))? == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.file.write(&bytes[..bytes.len().min(PIPE)])
    }
}

fn identity(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}
