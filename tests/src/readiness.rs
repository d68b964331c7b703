//! The output of `status` for an agent that a test started beside the lab's own, or for a gate
//! without one.
//!
//! Owns the call and the waiting. The tests check the result.

use crate::agent::{self, Agent};
use crate::lab::Lab;
use crate::place::Place;
use crate::wait::wait_until;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::time::Duration;

/// How long `status` may take to show the expected result.
const SOON: Duration = Duration::from_secs(10);

/// Starts an agent with the lab's arguments and some more, and does not wait for it.
///
/// # Errors
/// The agent cannot be started.
pub fn spawn(lab: &Lab, place: &Place<'_>, more: &[&str]) -> Result<Agent> {
    let mut arguments = lab.agent_arguments();
    arguments.extend(more.iter().map(Into::into));
    Agent::spawn(place, &agent::binary()?, &arguments)
}

/// The exit code of `status` and its output; `null` if it is not JSON.
///
/// # Errors
/// The command cannot be run.
pub fn status(lab: &Lab) -> Result<(i32, Value)> {
    let socket = lab.admin_socket().display().to_string();
    let pins = lab.bpf_dir().display().to_string();
    let mut words = vec!["status", "-o", "json"];
    words.extend(["--admin-socket", &socket, "--bpf-dir", &pins]);
    let told = lab.verb(&words)?;
    Ok((
        told.exit,
        serde_json::from_str(&told.stdout).unwrap_or_default(),
    ))
}

/// Waits until `status` fits. The error contains the last answer.
///
/// # Errors
/// It does not fit in time.
pub fn wait_status(lab: &Lab, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Ok((0, Value::Null));
    let found = wait_until(what, SOON, || {
        last = status(lab);
        let (_, answer) = last.as_ref().ok()?;
        fits(answer).then(|| answer.clone())
    });
    found.with_context(|| format!("{what}: {last:?}"))
}

/// Waits until `status` is not ready for a reason that contains `why`. Returns the whole reason.
///
/// # Errors
/// There is no such reason in time, or the agent is ready.
pub fn not_ready(lab: &Lab, why: &str) -> Result<String> {
    let status = wait_status(lab, why, |s| {
        s["trouble"].as_str().is_some_and(|t| t.contains(why))
    })?;
    ensure!(status["ready"] == false, "ready: {status}");
    match status["trouble"].as_str() {
        Some(trouble) => Ok(trouble.to_owned()),
        None => bail!("no reason: {status}"),
    }
}

/// A number of a status, by its JSON pointer.
pub fn number(status: &Value, pointer: &str) -> Result<u64> {
    let found = status.pointer(pointer).and_then(Value::as_u64);
    found.with_context(|| format!("no number at {pointer}: {status}"))
}
