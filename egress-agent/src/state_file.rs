//! Files that keep state for the next agent. Only the agent can read them. Each is replaced as a whole.
//!
//! They are beside the admin socket, in a folder that, like the pins, does not survive a reboot. The caller
//! interprets the text.

use anyhow::{Context as _, ensure};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The text of a file; see [`read_bytes`].
pub fn read(path: &Path, most: usize) -> anyhow::Result<Option<String>> {
    let bytes = read_bytes(path, most)?;
    Ok(bytes.map(String::from_utf8).transpose()?)
}

/// The content of a file; `None` if there is no file.
///
/// # Errors
/// Another user could have written the file, or it is longer than `most` bytes.
pub fn read_bytes(path: &Path, most: usize) -> anyhow::Result<Option<Vec<u8>>> {
    let mut options = OpenOptions::new();
    let opened = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match opened.open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let meta = file.metadata()?;
    let own = rustix::process::geteuid().as_raw();
    ensure!(meta.is_file(), "not a plain file");
    ensure!(
        meta.uid() == own && meta.mode() & 0o777 == 0o600,
        "another user may have written it"
    );
    let mut bytes = Vec::new();
    // One byte more than the limit, so that a longer file is recognised.
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() <= most, "more than {most} bytes");
    Ok(Some(bytes))
}

/// Replaces a file: writes a new one under another name and renames it. Returns the new file, open at its
/// end.
pub fn write(path: &Path, text: &str, most: usize) -> anyhow::Result<File> {
    ensure!(text.len() <= most, "more than {most} bytes");
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = Path::new(&unfinished);
    match fs::remove_file(unfinished) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    let new = options.write(true).create_new(true).mode(0o600);
    let mut file: File = new.open(unfinished).context("creating it")?;
    file.write_all(text.as_bytes())?;
    fs::rename(unfinished, path)?;
    Ok(file)
}
