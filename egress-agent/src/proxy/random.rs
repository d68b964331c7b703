//! Random bytes of the kernel, several requests' worth at a time: one system call each would be a hundredth of a
//! request's cost.
//!
//! Bytes are used once.

use rustix::rand::{GetRandomFlags, getrandom};
use std::cell::RefCell;
use uuid::Uuid;

/// Bytes of one system call. It gives at most 256 without a break (getrandom(2)).
const STOCK: usize = 256;

struct Stock {
    bytes: [u8; STOCK],
    used: usize,
}

thread_local! {
    static BYTES: RefCell<Stock> = const { RefCell::new(Stock { bytes: [0; STOCK], used: STOCK }) };
}

/// Random bytes, at most [`STOCK`].
pub(super) fn random<const N: usize>() -> [u8; N] {
    const { assert!(N <= STOCK) };
    BYTES.with_borrow_mut(|stock| {
        if stock.used + N > STOCK {
            if getrandom(&mut stock.bytes[..], GetRandomFlags::empty()) != Ok(STOCK) {
                let whole = stock.bytes.chunks_exact_mut(16);
                whole.for_each(|part| part.copy_from_slice(Uuid::new_v4().as_bytes()));
            }
            stock.used = 0;
        }
        let mut bytes = [0; N];
        let taken = &mut stock.bytes[stock.used..stock.used + N];
        bytes.copy_from_slice(taken);
        taken.fill(0);
        stock.used += N;
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_bytes_are_given_twice() {
        let mut seen = BTreeSet::new();
        for _ in 0..1000 {
            assert!(seen.insert(random::<16>()));
            assert!(seen.insert([random::<8>(), random::<8>()].concat().try_into().unwrap()));
        }
        let elsewhere = std::thread::spawn(|| [random::<16>(), random::<16>()]);
        assert!(
            elsewhere
                .join()
                .unwrap()
                .iter()
                .all(|bytes| seen.insert(*bytes))
        );
    }
}
