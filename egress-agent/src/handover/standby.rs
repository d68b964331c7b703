//! A standby: an agent that waits until the one that holds the gate leaves. While it waits, the other one answers for
//! the node, so a supervisor that sees it run may stop the other one. What would end this agent later ends it here.

use crate::config::Config;
use crate::gate::lock::{Lock, Patience};
use crate::gate::roots::Roots;
use crate::gate::{self, own};
use crate::{dns, kernel, kubernetes};
use anyhow::Context as _;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

/// How long to wait for the agent that holds the gate.
///
/// # Errors
/// This agent would wait, and could not run afterwards.
pub fn patience(config: &Config) -> anyhow::Result<Patience> {
    // Without another agent the gate may be open: close it first.
    if config.standby && is_held(&config.bpf_dir) {
        check(config).context("this agent could not take over")?;
    }
    Ok(gate::patience(config.standby))
}

fn is_held(bpf_dir: &Path) -> bool {
    bpf_dir.exists() && Lock::take(bpf_dir, Patience::UpTo(Duration::ZERO)).is_err()
}

/// Does what can fail after the lock was taken and changes nothing of the gate.
fn check(config: &Config) -> anyhow::Result<()> {
    let roots = Roots::look(&config.cgroups);
    if let Some(wrong) = roots.wrong {
        return Err(wrong.into());
    }
    own::check(config, &roots.paths)?;
    dns::check_trust(&config.dns.servers, config.dns.ca_certificates.as_deref())?;
    if let Some(settings) = &config.kubernetes {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("starting a runtime")?;
        // Makes a client; connects to nothing.
        runtime.block_on(kubernetes::connect(settings))?;
    }
    let began = Instant::now();
    kernel::try_programs()?;
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(millis, "standby: the programs load on this kernel");
    Ok(())
}
