//! A task's name, as the kernel stores it.

use core::fmt::{self, Write as _};

/// `comm` of include/linux/sched.h: up to 15 bytes and a NUL. The task chooses them.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Comm(pub [u8; 16]);

/// Shows the bytes before the NUL. A control character, which could forge log lines, is shown as `?`, and bytes
/// that are not UTF-8 as U+FFFD.
impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        for chunk in name.utf8_chunks() {
            for c in chunk.valid().chars() {
                f.write_char(if c.is_control() { '?' } else { c })?;
            }
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Comm;
    use std::string::ToString as _;

    #[test]
    fn a_name_is_shown_up_to_its_nul_and_forges_no_line() {
        for (bytes, shown) in [
            (*b"curl\0\0\0\0\0\0\0\0\0\0\0\0", "curl"),
            (*b"cu\nrl\x1b\0left\0\0\0\0\0", "cu?rl?"),
            (*b"a\xffb\0\0\0\0\0\0\0\0\0\0\0\0\0", "a\u{fffd}b"),
            (*b"sixteen bytes ok", "sixteen bytes ok"),
            ([0; 16], ""),
        ] {
            assert_eq!(Comm(bytes).to_string(), shown);
        }
    }
}
