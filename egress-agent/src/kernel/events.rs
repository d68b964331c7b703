//! The output of the programs: denials from the ring buffer, and log lines.

use super::pins::Pins;
use super::programs::Logger;
use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use egress_ebpf::abi::DenyEvent;
use std::os::fd::AsRawFd;
use tokio::io::unix::AsyncFd;

/// Reads denials.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    pub(super) fn open(pins: &Pins) -> anyhow::Result<Self> {
        Ok(Self {
            ring: watch(pins.map("EVENTS")?.try_into()?).context("watching the event ring")?,
        })
    }

    /// The next denials, at least one. Dropping the future loses none.
    pub async fn next(&mut self) -> anyhow::Result<Vec<DenyEvent>> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let ring = ready.get_inner_mut();
            let mut batch = Vec::new();
            while batch.len() < BATCH {
                let Some(item) = ring.next() else { break };
                if let Some(event) = decode(&item) {
                    batch.push(event);
                }
            }
            if batch.len() < BATCH {
                ready.clear_ready();
            }
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
    }
}

/// The programs' own log lines (`aya-log`), written through the `log` facade.
pub struct ProgramLog {
    ring: AsyncFd<Logger>,
}

impl ProgramLog {
    pub(super) fn of(logger: Logger) -> anyhow::Result<Self> {
        Ok(Self {
            ring: watch(logger).context("watching the programs' log ring")?,
        })
    }

    /// Writes log lines as they arrive. Returns only with an error.
    pub async fn pump(mut self) -> anyhow::Result<()> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

fn watch<T: AsRawFd>(ring: T) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: aya's rings own their map's descriptor and keep the same one open as long as they live. The
    // watcher owns the ring and drops it after its registration.
    Ok(unsafe { AsyncFd::register(ring) }?)
}

/// The most events of one call.
const BATCH: usize = 256;

fn decode(bytes: &[u8]) -> Option<DenyEvent> {
    if bytes.len() < size_of::<DenyEvent>() {
        return None;
    }
    // SAFETY: long enough, and `DenyEvent` is plain integers for which any bytes are valid.
    Some(unsafe { bytes.as_ptr().cast::<DenyEvent>().read_unaligned() })
}
