//! Memory that goes back to the system: what jemalloc has free, and pages of the program.
//!
//! The C library keeps pages in which a few long-lived pieces lie among many that a change of the rules freed, so its
//! resident memory grows with each change of many rules.

mod program;

use std::ptr::null_mut;
use std::time::Duration;
use tikv_jemalloc_sys::mallctl;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Pages that have been free for a second can go back (`man jemalloc`, `opt.dirty_decay_ms`). The default is ten, and
/// more than a burst of connections needs.
// SAFETY: jemalloc reads a pointer to a string that ends with 0 by this name (`malloc_conf`), and nothing else in the
// program has the name.
#[unsafe(export_name = "_rjem_malloc_conf")]
static OPTIONS: &[u8; 37] = b"dirty_decay_ms:1000,muzzy_decay_ms:0\0";

/// Time between two looks for such pages. jemalloc itself looks only while memory is allocated. A thread of its own for it is
/// not in a program that is linked statically (`background_thread.c`, `pthread_create_fptr_init`).
const EVERY: Duration = Duration::from_secs(1);

/// Such looks between two returns of the program's pages. Those in use then cost a fault each 16, half a millisecond in all.
const LOOKS: u32 = 10;

/// Returns pages until it is dropped.
pub async fn give_back() {
    let mut look = 0;
    loop {
        tokio::time::sleep(EVERY).await;
        look = (look + 1) % LOOKS;
        let program = look == 0;
        let back = tokio::task::spawn_blocking(move || {
            // With many pages it takes milliseconds.
            purge();
            if program {
                program::unmap();
            }
        });
        if back.await.is_err() {
            return;
        }
    }
}

/// Returns the pages of all arenas (4096, `MALLCTL_ARENAS_ALL`) that have been free for long enough.
fn purge() {
    let name = c"arena.4096.decay";
    // SAFETY: the command has neither input nor output (`man jemalloc`, `arena.<i>.decay`), and any thread may give it. Its
    // error needs no handling: memory is then returned later.
    unsafe { mallctl(name.as_ptr(), null_mut(), null_mut(), null_mut(), 0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    use std::fs;

    #[test]
    fn the_options_are_jemallocs() {
        assert!(CStr::from_bytes_with_nul(OPTIONS).is_ok());
        let name = c"opt.dirty_decay_ms";
        let (mut decay, mut length) = (0_isize, size_of::<isize>());
        // SAFETY: the option is an `ssize_t` (`man jemalloc`, `opt.dirty_decay_ms`), and the length is its.
        let error = unsafe {
            let decay = (&raw mut decay).cast();
            mallctl(name.as_ptr(), decay, &raw mut length, null_mut(), 0)
        };
        assert_eq!((error, decay), (0, 1000));
    }

    #[test]
    fn free_pages_go_back_although_nothing_is_allocated() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS:"));
            let kib = line.unwrap().split_whitespace().nth(1).unwrap();
            kib.parse::<usize>().unwrap() << 10
        };
        let many: Vec<Vec<u8>> = (0..20_000).map(|_| vec![1; 5_000]).collect();
        let full = resident();
        drop(many);
        let begin = std::time::Instant::now();
        while resident() + 80_000_000 > full {
            assert!(
                begin.elapsed() < 30 * EVERY,
                "{} of {full} bytes",
                resident()
            );
            std::thread::sleep(EVERY / 10);
            purge();
        }
    }
}
