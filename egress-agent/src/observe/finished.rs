//! Counts of finished requests and connections of the proxy: by protocol and status, by response flag, and their bytes.
//! The number of values is fixed.

use egress_core::http::response_flags::{ResponseFlag, ResponseFlags};
use std::sync::atomic::{AtomicU64, Ordering};

/// How a flow was read, as a label.
pub const PROTOCOLS: [&str; 4] = ["http", "http2", "tls", "tcp"];
/// Classes of status codes, as a label. `none`: the client got no status, as with TLS and TCP.
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// One finished request or connection.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Its place in [`PROTOCOLS`].
    pub protocol: usize,
    /// The status that the client got; 0 for none.
    pub status: u16,
    /// Envoy's response flags.
    pub flags: ResponseFlags,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Finished {
    requests: [[AtomicU64; CLASSES.len()]; PROTOCOLS.len()],
    flags: [AtomicU64; ResponseFlag::ALL.len()],
    received: AtomicU64,
    sent: AtomicU64,
}

impl Finished {
    /// Counts one.
    pub fn add(&self, done: Done) {
        let class = usize::from(done.status / 100);
        let class = if class < CLASSES.len() { class } else { 0 };
        if let Some(classes) = self.requests.get(done.protocol) {
            classes[class].fetch_add(1, Ordering::Relaxed);
        }
        for (flag, count) in ResponseFlag::ALL.iter().zip(&self.flags) {
            if done.flags.has(*flag) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.received.fetch_add(done.received, Ordering::Relaxed);
        self.sent.fetch_add(done.sent, Ordering::Relaxed);
    }

    /// Requests and connections by protocol and class.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let rows = PROTOCOLS.iter().zip(&self.requests);
        rows.flat_map(|(protocol, classes)| {
            let cells = CLASSES.iter().zip(classes);
            cells.map(|(class, count)| (*protocol, *class, count.load(Ordering::Relaxed)))
        })
    }

    /// Requests and connections by response flag.
    pub fn flags(&self) -> impl Iterator<Item = (ResponseFlag, u64)> {
        let all = ResponseFlag::ALL.iter().zip(&self.flags);
        all.map(|(flag, count)| (*flag, count.load(Ordering::Relaxed)))
    }

    /// Bytes from clients, and to them.
    pub fn bytes(&self) -> [u64; 2] {
        [&self.received, &self.sent].map(|bytes| bytes.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_and_each_of_its_flags_does() {
        let finished = Finished::default();
        let done = Done {
            protocol: 1,
            status: 503,
            flags: ResponseFlags::from(ResponseFlag::UF).with(ResponseFlag::URX),
            received: 3,
            sent: 7,
        };
        finished.add(done);
        finished.add(Done {
            status: 0,
            flags: ResponseFlags::default(),
            ..done
        });
        let requests: Vec<_> = finished.requests().filter(|r| r.2 > 0).collect();
        assert_eq!(requests, [("http2", "none", 1), ("http2", "5xx", 1)]);
        let flags: Vec<_> = finished.flags().filter(|f| f.1 > 0).collect();
        assert_eq!(flags, [(ResponseFlag::URX, 1), (ResponseFlag::UF, 1)]);
        assert_eq!(finished.bytes(), [6, 14]);
    }

    #[test]
    fn a_status_of_no_class_counts_as_none() {
        let finished = Finished::default();
        finished.add(Done {
            protocol: 0,
            status: 999,
            flags: ResponseFlags::default(),
            received: 0,
            sent: 0,
        });
        assert!(finished.requests().any(|r| r == ("http", "none", 1)));
    }
}
