//! Tries one path: first outside the gate, where it must get out (otherwise the trial would prove nothing), then behind
//! the gate. Records the frames on the cable.

use super::capture::Frame;
use super::cell::Seen;
use super::claimed::{GROUP_PORT, listed_groups};
use super::forged::SERVER_PORT;
use super::held::{Held, arguments, binary, read_result};
use super::served::STREAM_PORTS;
use super::sock::{Step, Stop};
use super::suite::{Bench, ROUTER, aim};
use super::table::{Between, Caller, Control, Expect, Path, TARGET_PORT, Trial};
use super::{Aim, PAYLOAD};
use crate::client;
use crate::place::Place;
use anyhow::{Context as _, Result, bail};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The pause between two calls from outside.
const PAUSE: Duration = Duration::from_millis(10);
/// Longer than any probe waits.
pub(super) const PROBE_LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
pub(super) enum Gate {
    Behind,
    Outside,
}

/// How a probe ended, and what arrived meanwhile.
pub(super) struct Run {
    pub(super) result: Step,
    pub(super) escaped: Vec<Frame>,
    pub(super) listed: usize,
}

impl Run {
    pub(super) fn words(&self) -> String {
        let how = match &self.result {
            Ok(()) => "call succeeds".to_owned(),
            Err(stop) => format!("{}: {}", stop.call, errno_name(stop.errno)),
        };
        match self.escaped.first() {
            Some(frame) => format!("{how}; {} frames, {frame}", self.escaped.len()),
            None => how,
        }
    }
}

impl Bench {
    pub(super) fn probe(&mut self, path: &'static Path, over_v6: bool) -> Result<(Seen, String)> {
        let mut aim = aim(over_v6, self.port);
        if let Some(form) = path.form {
            aim.to = form(aim.to);
        }
        let control = self.try_in(Gate::Outside, path, &aim)?;
        if control.result.as_ref().is_err_and(unavailable) && control.escaped.is_empty() {
            return Ok((Seen::Missing, control.words()));
        }
        if path.control == Control::Leaves && control.escaped.is_empty() {
            bail!("outside the gate nothing leaves: {}", control.words());
        }
        let run = match path.trial {
            Trial::Staged(_, between) => self.between(path, over_v6, between, &aim)?,
            Trial::Probe(_) | Trial::Suite(_) | Trial::Untried => {
                self.try_in(Gate::Behind, path, &aim)?
            }
        };
        let words = run.words();
        // Towards a DNS server, calls succeed and reach the agent.
        let call_counts = matches!(path.control, Control::None(_)) && self.port == TARGET_PORT;
        // A path that must work has worked only if the probe reports it.
        if matches!(path.expect, Expect::Works(_)) && run.result.is_err() {
            return Ok((Seen::Closed, words));
        }
        if !run.escaped.is_empty() || (call_counts && run.result.is_ok()) {
            return Ok((Seen::Open, words));
        }
        if path.listed {
            aim.to = aim.listed;
            let listed = self.try_in(Gate::Behind, path, &aim)?;
            if listed.result.is_err() || listed.listed == 0 {
                bail!(
                    "the same call to a listed destination fails: {}",
                    listed.words()
                );
            }
        }
        Ok((Seen::Closed, words))
    }

    pub(super) fn place(&self, gate: Gate) -> Place<'_> {
        match gate {
            Gate::Behind => self.lab.client_place(),
            Gate::Outside => Place {
                cgroup: Some(&self.outside_gate),
                netns: Some(self.lab.node()),
                resolver: None,
            },
        }
    }

    /// Runs a probe from start to end.
    fn try_in(&mut self, gate: Gate, path: &Path, aim: &Aim) -> Result<Run> {
        let command = self.place(gate).command(binary()?)?;
        self.try_by(command, path.name, path.caller, aim)
    }

    pub(super) fn try_by(
        &mut self,
        mut command: Command,
        name: &str,
        caller: Option<Caller>,
        aim: &Aim,
    ) -> Result<Run> {
        arguments(&mut command, name, aim);
        let ended = self.while_called(caller, aim, || client::run(command, PROBE_LIMIT))?;
        let result = read_result(&ended.stdout).with_context(|| format!("{name}: {ended:?}"))?;
        self.judge(result, aim, caller.is_some())
    }

    /// Calls the node's server from outside while `run` runs.
    pub(super) fn while_called<T>(
        &self,
        caller: Option<Caller>,
        aim: &Aim,
        run: impl FnOnce() -> T,
    ) -> T {
        let stop = AtomicBool::new(false);
        let outside = self.lab.outside();
        thread::scope(|scope| {
            let caller = caller.map(|by| {
                let stop = &stop;
                scope.spawn(move || outside.run(|| call_node(by, aim, stop)))
            });
            let ended = run();
            stop.store(true, Ordering::Relaxed);
            if let Some(caller) = caller {
                let _ = caller.join();
            }
            ended
        })
    }

    /// Judges the frames since the last call.
    pub(super) fn judge(&mut self, result: Step, aim: &Aim, called: bool) -> Result<Run> {
        let frames = self.settle(usize::from(aim.to.is_ipv6()))?;
        let to = |frame: &Frame, ip: IpAddr| frame.to == Some(ip);
        let groups = listed_groups();
        let is_listed = |frame: &Frame| {
            let is_group = frame.to.is_some_and(|ip| groups.contains(&ip));
            if (is_group, frame.protocol, frame.port) == (true, 17, GROUP_PORT) {
                return true;
            }
            // Later fragments have no port.
            (to(frame, aim.listed.ip()) && matches!(frame.protocol, 6 | 17 | 44))
                || (to(frame, aim.proxied.ip()) && (frame.protocol, frame.port) == (6, 80))
        };
        // The kernel's own message about a closed socket to a host that was listed or may call in.
        let is_courtesy = |frame: &Frame| {
            frame.is_unreachable()
                && (to(frame, aim.listed.ip()) || (called && to(frame, aim.to.ip())))
        };
        let listed = frames.iter().filter(|f| is_listed(f)).count();
        let escaped = frames
            .into_iter()
            .filter(|f| !is_listed(f) && !is_courtesy(f))
            .collect();
        Ok(Run {
            result,
            escaped,
            listed,
        })
    }

    pub(super) fn settle(&mut self, family: usize) -> Result<Vec<Frame>> {
        self.capture
            .settle(self.lab.node(), ROUTER[family].parse()?)
    }

    fn between(&mut self, path: &Path, over_v6: bool, between: Between, aim: &Aim) -> Result<Run> {
        let held = match between {
            Between::Attach => {
                let at = self
                    .held
                    .iter()
                    .position(|(name, v6, _)| *name == path.name && *v6 == over_v6);
                self.held.remove(at.context("it was begun before")?).2
            }
            Between::MoveIn => {
                let held = Held::start(&self.place(Gate::Outside), path.name, aim)?;
                held.move_to(self.lab.client_place().cgroup.context("a cgroup")?)?;
                held
            }
            Between::MoveOut => {
                let held = Held::start(&self.place(Gate::Behind), path.name, aim)?;
                held.move_to(&self.outside_gate)?;
                held
            }
        };
        // Its earlier frames are not judged.
        self.settle(usize::from(over_v6))?;
        let result = self.while_called(path.caller, aim, || held.finish())?;
        self.judge(result, aim, path.caller.is_some())
    }
}

/// Whether the error means that the kernel does not have this kind of socket.
fn unavailable(stop: &Stop) -> bool {
    matches!(
        stop.errno,
        libc::EAFNOSUPPORT
            | libc::EPROTONOSUPPORT
            | libc::ESOCKTNOSUPPORT
            | libc::ENOPROTOOPT
            | libc::ENOSYS
            | libc::EOPNOTSUPP
    )
}

fn errno_name(errno: i32) -> String {
    if errno == 0 {
        return "refused".to_owned();
    }
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os").next().unwrap_or_default().to_owned()
}

/// Calls the node's server until `stop`.
fn call_node(by: Caller, aim: &Aim, stop: &AtomicBool) -> Result<()> {
    match by {
        Caller::Datagrams => write_to_node(aim, stop),
        Caller::Connections => {
            for port in STREAM_PORTS.into_iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // No server at this port, or one that does not answer yet.
                if hear_and_say_back(SocketAddr::new(aim.own, port)).is_err() {
                    thread::sleep(PAUSE);
                }
            }
            Ok(())
        }
    }
}

/// Connects, and sends back what it receives.
fn hear_and_say_back(to: SocketAddr) -> std::io::Result<()> {
    const PATIENCE: Duration = Duration::from_millis(100);
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    // It ends at once, because a later retransmission would count for another probe.
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut heard = [0; PAYLOAD.len()];
    stream.read_exact(&mut heard)?;
    stream.write_all(&heard)?;
    // It reads until the server ends the connection.
    stream.read_exact(&mut heard)
}

/// The target writes to the node's server until `stop`.
fn write_to_node(aim: &Aim, stop: &AtomicBool) -> Result<()> {
    let socket = UdpSocket::bind(aim.to)?;
    while !stop.load(Ordering::Relaxed) {
        // If the server does not exist yet, the next send fails.
        let _ = socket.send_to(b"anyone?", SocketAddr::new(aim.own, SERVER_PORT));
        thread::sleep(PAUSE);
    }
    Ok(())
}
