//! How many names below wildcards each workload asks for ([`Tunnel`]), and when a workload's count ends.

use egress_core::dns::settings::Below as Bounds;
use egress_core::dns::tunnel::Tunnel;
use egress_ebpf::ids::CgroupId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A workload that asked for no new name in this time has no count any more. In the same time it could have asked for
/// more names than the new count allows at once.
const FORGOTTEN: Duration = Duration::from_mins(15);
/// Time between two checks.
const CHECK_INTERVAL: Duration = Duration::from_mins(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Below {
    tunnel: Tunnel,
    seen: BTreeMap<CgroupId, Instant>,
    looked: Option<Instant>,
}

impl Below {
    /// Whether a workload may ask for this name below the wildcard.
    pub(super) fn allows(
        &mut self,
        now: Instant,
        share: CgroupId,
        wildcard: &Arc<str>,
        name: &Arc<str>,
        bounds: Bounds,
    ) -> bool {
        if self.looked.is_none_or(|at| now >= at + CHECK_INTERVAL) {
            self.looked = Some(now);
            let (tunnel, seen) = (&mut self.tunnel, &mut self.seen);
            seen.retain(|share, at| {
                let stays = now < *at + FORGOTTEN;
                if !stays {
                    tunnel.forget(*share);
                }
                stays
            });
        }
        self.seen.insert(share, now);
        self.tunnel.allows(now, share, wildcard, name, bounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_that_asks_no_more_is_forgotten() {
        let (mut below, now) = (Below::default(), Instant::now());
        let bounds = Bounds {
            burst: 1,
            per_minute: 0,
            ..Bounds::default()
        };
        let (host, name) = (Arc::from("*.a.example"), |n: u32| {
            Arc::from(format!("{n}.a.example"))
        });
        let (one, other) = (CgroupId(1), CgroupId(2));
        assert!(below.allows(now, one, &host, &name(1), bounds));
        assert!(!below.allows(now, one, &host, &name(2), bounds));
        let later = now + FORGOTTEN;
        assert!(below.allows(later, other, &host, &name(3), bounds));
        assert_eq!(below.seen.len(), 1);
        assert!(below.allows(later, one, &host, &name(4), bounds));
    }
}
