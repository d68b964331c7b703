//! Asks a running agent on its admin socket, for `status`, `wait` and `explain`.

use super::request::{Asked, Explained, Request, TIMEOUT};
use super::status::Status;
use crate::applied::RuleState;
use crate::failure::{ABSENT, FINDING, Failure, PRIVILEGE};
use crate::rollout::Goal;
use anyhow::Context as _;
use egress_core::istio::RuleName;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time between two status requests of [`wait`].
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Asks a running agent for its status.
pub fn ask(path: &Path) -> anyhow::Result<Status> {
    request(path, &Request::Status)
}

/// Asks a running agent for its verdict on a destination.
pub fn explain(path: &Path, asked: Asked) -> anyhow::Result<Explained> {
    request(path, &Request::Explain(asked))
}

fn request<T: serde::de::DeserializeOwned>(path: &Path, request: &Request) -> anyhow::Result<T> {
    let mut stream = UnixStream::connect(path).map_err(|e| {
        let shown = path.display();
        match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure {
                code: ABSENT,
                message: format!("{shown}: {e}; no agent runs there: start one, or name its socket with --admin-socket"),
            },
            ErrorKind::PermissionDenied => Failure::privilege(format_args!(
                "{shown}: {e}; run as root, or as the agent's user"
            )),
            _ => Failure::finding(format_args!("{shown}: {e}; asking the agent")),
        }
    })?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let document = serde_json::to_vec(request)?;
    let mut exchange = || {
        stream.write_all(&document)?;
        stream.shutdown(Shutdown::Write)?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).map(|_| text)
    };
    let text = exchange().with_context(|| format!("asking the agent at {}", path.display()))?;
    if text.is_empty() {
        return Err(Failure::finding(format_args!(
            "{}: the agent did not answer: it is stopping, or it rejects this user",
            path.display()
        ))
        .into());
    }
    serde_json::from_slice(&text).context("the agent's answer")
}

/// Waits until a running agent is ready, or until its gate is closed, ready or not.
pub fn wait(path: &Path, limit: Duration, closed: bool) -> anyhow::Result<()> {
    let until = Instant::now() + limit;
    loop {
        let why = match ask(path) {
            Ok(status) if status.ready || (closed && status.closed) => return Ok(()),
            Ok(status) => Failure::finding(
                status
                    .trouble
                    .unwrap_or_else(|| "not proven yet".to_owned()),
            ),
            Err(e) => may_pass(e)?,
        };
        if Instant::now() >= until {
            let message = format!("not ready after {limit:?}: {why}");
            return Err(Failure { message, ..why }.into());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until a version of an object is in force on the agent's node as `goal` says. An object that the agent refuses ends
/// the wait.
pub fn wait_rule(path: &Path, limit: Duration, rule: &RuleName, goal: Goal) -> anyhow::Result<()> {
    let until = Instant::now() + limit;
    loop {
        let why = match request::<RuleState>(path, &Request::Rule(rule.to_string())) {
            Ok(state) => match judge(&state, goal) {
                Ok(()) => return Ok(()),
                Err((true, why)) => {
                    let line = format!("{rule} is refused: {why}");
                    return Err(Failure::finding(line).into());
                }
                Err((false, why)) => Failure::finding(why),
            },
            Err(e) => may_pass(e)?,
        };
        if Instant::now() >= until {
            let message = format!("{rule}: {why} (waited {limit:?})");
            return Err(Failure { message, ..why }.into());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The failure of a wait that ends after this error.
///
/// # Errors
/// Time does not help, because a privilege is missing.
fn may_pass(error: anyhow::Error) -> anyhow::Result<Failure> {
    let code = match Failure::code_of(&error) {
        PRIVILEGE => return Err(error),
        ABSENT => ABSENT,
        _ => FINDING,
    };
    let message = format!("{error:#}");
    Ok(Failure { code, message })
}

/// Whether the goal is reached; if not, whether that is final, and why.
fn judge(state: &RuleState, goal: Goal) -> Result<(), (bool, String)> {
    let Goal::InForce(least) = goal else {
        return if state.in_force {
            Err((false, "it is in force".to_owned()))
        } else {
            Ok(())
        };
    };
    let new_enough = |generation: Option<i64>| least.is_none() || generation >= least;
    if let Some(refused) = &state.refused {
        let beyond = least.is_some() && state.in_force && new_enough(state.generation);
        if new_enough(refused.generation) && !beyond {
            return Err((true, refused.reason.clone()));
        }
    }
    if state.in_force && new_enough(state.generation) {
        return Ok(());
    }
    let mut why = match (state.in_force, state.generation) {
        (false, _) => "it is not in force".to_owned(),
        (true, Some(generation)) => format!("generation {generation} is in force"),
        (true, None) => "a version without a generation is in force".to_owned(),
    };
    if let Some(problem) = &state.problem {
        why = format!("{why}; {problem}");
    }
    Err((false, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applied::RefusedVersion;

    fn state(in_force: Option<i64>, refused: Option<i64>) -> RuleState {
        RuleState {
            in_force: in_force.is_some(),
            generation: in_force,
            refused: refused.map(|generation| RefusedVersion {
                generation: Some(generation),
                reason: "no port".to_owned(),
            }),
            problem: None,
        }
    }

    #[test]
    fn a_generation_is_in_force_awaited_or_refused() {
        let is = |state, goal| judge(&state, goal).map_err(|(ends, _)| ends);
        let at = |least| Goal::InForce(Some(least));
        let any = Goal::InForce(None);
        for (have, goal, want) in [
            (state(Some(2), None), any, Ok(())),
            (state(Some(2), None), at(2), Ok(())),
            (state(Some(2), None), at(3), Err(false)),
            (state(None, None), any, Err(false)),
            // The last good version does not hide that the present one is refused.
            (state(Some(2), Some(3)), any, Err(true)),
            (state(Some(2), Some(3)), at(3), Err(true)),
            (state(Some(2), Some(3)), at(2), Ok(())),
            (state(Some(2), Some(3)), at(4), Err(false)),
            (state(None, Some(1)), any, Err(true)),
            (state(None, None), Goal::Gone, Ok(())),
            (state(Some(1), None), Goal::Gone, Err(false)),
        ] {
            assert_eq!(is(have.clone(), goal), want, "{have:?} {goal:?}");
        }
    }

    #[test]
    fn a_wait_ends_with_the_code_of_its_last_error_and_at_once_without_a_privilege() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let rule: RuleName = "serviceentry/shop/a".parse().unwrap();
        let in_force = Goal::InForce(None);
        for result in [
            wait(&socket, Duration::ZERO, false),
            wait_rule(&socket, Duration::ZERO, &rule, in_force),
        ] {
            assert_eq!(Failure::code_of(&result.unwrap_err()), ABSENT);
        }
        assert!(may_pass(Failure::privilege("no root").into()).is_err());
        let other = may_pass(anyhow::anyhow!("disk on fire")).unwrap();
        assert_eq!(other.code, FINDING);
    }
}
