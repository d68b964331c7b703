//! The time of the pure core alone for the same change, in this process.

use super::fleet::{Fleet, address, changed, files, host};
use anyhow::{Result, ensure};
use egress_core::istio::{Object, decode};
use egress_core::policy::leases::Answer;
use egress_core::policy::state::{Settings, State};
use egress_core::registry::scope::Workload;
use egress_ebpf::ids::CgroupId;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The pause between changes is that of an agent, which waits a moment before it reads changed files. Without it, a
/// change would profit from the processor's caches of the previous one.
const APART: Duration = Duration::from_millis(25);

/// Processor time of this thread for one change, the median.
pub fn changes(fleet: &Fleet, changes: usize) -> Result<Duration> {
    let (now, size) = (Instant::now(), fleet.size);
    let objects = |files: &[(String, String)]| -> Vec<Arc<Object>> {
        let decoded = files.iter().map(|(name, text)| decode(name, text));
        decoded.flat_map(|d| d.objects).map(Arc::new).collect()
    };
    let mut held = objects(&files(size));
    ensure!(
        held.len() == 2 * size.services + size.policies,
        "{} objects",
        held.len()
    );
    let mut state = State::new(Settings::default());
    state.handle_rules(now, &held);
    for n in 0..size.policies {
        let workload = Workload {
            namespace: format!("ns-{n}"),
            ..Workload::default()
        };
        state.handle_workload(now, CgroupId(n as u64 + 1), workload);
    }
    for n in 0..size.services {
        let answer = Answer {
            addresses: vec![address(n)],
            ttl: Duration::from_hours(1),
        };
        state.handle_answer(now, &host(n), Ok(answer));
    }
    let _ = state.poll_ops();
    state.routes();
    let mut took = Vec::new();
    for n in 0..changes {
        let (file, text) = changed(n);
        held.retain(|object| object.source != file);
        held.extend(objects(&[(file, text)]));
        thread::sleep(APART);
        let begin = spent();
        state.handle_rules(now, &held);
        let _ = state.poll_ops();
        state.routes();
        took.push(spent().saturating_sub(begin));
    }
    took.sort_unstable();
    Ok(took[took.len() / 2])
}

/// Processor time of this thread.
fn spent() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let nanos = u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0);
    Duration::from_nanos(nanos)
}
