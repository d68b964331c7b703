//! Random numbers from the kernel.

use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

/// `N` random words.
pub fn words<const N: usize>() -> io::Result<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        let mut bytes = [0_u8; 8];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
        }
        *word = u64::from_ne_bytes(bytes);
    }
    Ok(words)
}
