//! The agent's process: processor time, memory, descriptors, threads, start. From proc(5).

use crate::privilege;
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// Ticks of `starttime` in a second: `USER_HZ` is 100 on every architecture that the agent is built for.
const TICKS: u64 = 100;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Processor time used so far.
    pub cpu: Duration,
    /// Bytes of resident memory.
    pub resident: u64,
    /// Bytes of virtual memory.
    pub virtual_memory: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub open: usize,
    /// The limit of open descriptors.
    pub limit: usize,
    /// When the process started, in seconds since 1970.
    pub started: f64,
}

impl Process {
    /// Reads the present values. Those that cannot be read are 0.
    pub fn read() -> Self {
        let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
        };
        let (open, limit) = privilege::descriptors();
        Self {
            cpu: clock(ClockId::ProcessCPUTime),
            resident: field("VmRSS:") * 1024,
            virtual_memory: field("VmSize:") * 1024,
            threads: field("Threads:"),
            open,
            limit,
            started: started(),
        }
    }
}

fn clock(id: ClockId) -> Duration {
    clock_gettime(id).try_into().unwrap_or_default()
}

/// Read once, so that a clock that is set later does not change it.
fn started() -> f64 {
    static STARTED: OnceLock<f64> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field, the name, may contain spaces and parentheses. `starttime` is the 22nd.
        let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let ticks = fields.split(' ').nth(19).and_then(|t| t.parse().ok());
        let since_boot = Duration::from_millis(ticks.unwrap_or(0u64) * (1000 / TICKS));
        let age = clock(ClockId::Boottime).saturating_sub(since_boot);
        let started = SystemTime::now().checked_sub(age);
        let since = started.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        since.unwrap_or_default().as_secs_f64()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_plausible_values() {
        let process = Process::read();
        assert!(process.resident > 1 << 20 && process.virtual_memory >= process.resident);
        assert!(process.threads > 0 && process.open > 0 && process.limit >= process.open);
        let now = SystemTime::now();
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - process.started;
        assert!((-1.0..3600.0).contains(&age), "started {age} s ago");
    }
}
