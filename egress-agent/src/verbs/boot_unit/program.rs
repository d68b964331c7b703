//! A program as a file: whether it runs on any node, and how it is replaced. Does not know which program or where.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

/// Whether a program needs a loader: it has the segment `PT_INTERP` (elf(5)).
pub fn is_linked(program: &Path) -> io::Result<bool> {
    const PT_INTERP: [u8; 4] = 3_u32.to_ne_bytes();
    let file = File::open(program)?;
    let number = |at: u64| -> io::Result<u64> {
        let mut bytes = [0; 2];
        file.read_exact_at(&mut bytes, at)?;
        Ok(u16::from_ne_bytes(bytes).into())
    };
    // `e_phoff`, `e_phentsize` and `e_phnum` of the 64-bit header.
    let mut offset = [0; 8];
    file.read_exact_at(&mut offset, 32)?;
    let (size, count) = (number(54)?, number(56)?);
    for segment in 0..count {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, u64::from_ne_bytes(offset) + segment * size)?;
        if kind == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Replaces a file as a whole, unless it has this content and mode. Returns whether it did.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    if has(path, bytes, mode) {
        return Ok(false);
    }
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    // A node that loses power now must not boot with an empty program.
    file.sync_all()?;
    drop(file);
    fs::rename(&new, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(true)
}

/// Whether a file has this content and mode.
pub fn has(path: &Path, bytes: &[u8], mode: u32) -> bool {
    let same = || -> io::Result<bool> {
        let mut file = File::open(path)?;
        let meta = file.metadata()?;
        let mut there = Vec::new();
        if meta.len() == bytes.len() as u64 && meta.permissions().mode() & 0o777 == mode {
            file.read_to_end(&mut there)?;
        }
        Ok(there == bytes)
    };
    same().unwrap_or(false)
}
