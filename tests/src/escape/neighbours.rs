//! Scenarios of claimed sources: a second network namespace, a sysctl of the namespace, the time limit of an answer,
//! and a forwarder on the loopback device.

use super::Aim;
use super::held::{Held, arguments, binary, read_result};
use super::suite::{Bench, Seen};
use super::table::Caller;
use super::trial::{Gate, PROBE_LIMIT, Run};
use crate::client;
use crate::netns::NetNs;
use crate::pinned;
use crate::place::Place;
use anyhow::{Context as _, Result, bail};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

/// The server that a neighbour writes to.
const SERVER: &str = "udp-answer";
const NONLOCAL_BIND: [&str; 2] = ["ipv4/ip_nonlocal_bind", "ipv6/ip_nonlocal_bind"];

impl Bench {
    /// A probe while the node's namespace allows sockets to bind to any address.
    pub(super) fn with_nonlocal_bind(&mut self, probe: &str, aim: &Aim) -> Result<(Seen, String)> {
        set_nonlocal_bind(self.lab.node(), "1")?;
        let runs = self.try_both(probe, aim);
        set_nonlocal_bind(self.lab.node(), "0")?;
        seen(runs?)
    }

    /// A stream to a listed host in the same namespace. The result is whether its first packet arrives.
    pub(super) fn claimed_stream(&mut self, probe: &str, aim: &Aim) -> Result<(Seen, String)> {
        set_nonlocal_bind(self.lab.node(), "1")?;
        let runs = self.try_both(probe, aim);
        set_nonlocal_bind(self.lab.node(), "0")?;
        let (control, run) = runs?;
        if control.listed == 0 {
            bail!("outside the gate nothing arrives: {}", control.words());
        }
        let arrived = if run.listed == 0 {
            Seen::Closed
        } else {
            Seen::Open
        };
        Ok((arrived, run.words()))
    }

    fn try_both(&mut self, probe: &str, aim: &Aim) -> Result<(Run, Run)> {
        let mut run = |gate| {
            let command = self.place(gate).command(binary()?)?;
            self.try_by(command, probe, None, aim)
        };
        Ok((run(Gate::Outside)?, run(Gate::Behind)?))
    }

    /// A neighbour writes to a server of the node, which answers.
    pub(super) fn by_neighbour(
        &mut self,
        probe: &str,
        nonlocal: bool,
        aim: &Aim,
    ) -> Result<(Seen, String)> {
        if self.neighbour.is_none() {
            self.neighbour = Some(neighbour_of(self.lab.node())?);
        }
        let namespace = self.neighbour.as_ref().context("a neighbour")?;
        set_nonlocal_bind(namespace, if nonlocal { "1" } else { "0" })?;
        let control = self.served_neighbour(Gate::Outside, probe, aim)?;
        let run = self.served_neighbour(Gate::Behind, probe, aim)?;
        seen((control, run))
    }

    fn served_neighbour(&mut self, gate: Gate, probe: &str, aim: &Aim) -> Result<Run> {
        let place = Place {
            netns: self.neighbour.as_ref(),
            ..self.place(gate)
        };
        let mut writer = place.command(binary()?)?;
        arguments(&mut writer, probe, aim);
        let writer = thread::spawn(move || client::run(writer, PROBE_LIMIT));
        let server = self.place(gate).command(binary()?)?;
        let mut run = self.try_by(server, SERVER, None, aim)?;
        let ended = writer
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        let wrote = read_result(&ended.stdout).with_context(|| format!("{probe}: {ended:?}"))?;
        let family = usize::from(aim.to.is_ipv6());
        run.escaped.extend(self.settle(family)?);
        // The writer's error says more than a server that heard nothing.
        run.result = wrote.and(run.result);
        Ok(run)
    }

    /// A server answers. Then its permission is aged until it expires.
    pub(super) fn answer_aged(&mut self, probe: &str, aim: &Aim) -> Result<(Seen, String)> {
        let control = self.answer_twice(Gate::Outside, probe, aim)?;
        let run = self.answer_twice(Gate::Behind, probe, aim)?;
        seen((control, run))
    }

    fn answer_twice(&mut self, gate: Gate, probe: &str, aim: &Aim) -> Result<Run> {
        let place = self.place(gate);
        let held = self.while_called(Some(Caller::Datagrams), aim, || {
            Held::start(&place, probe, aim)
        })?;
        let first = self.settle(usize::from(aim.to.is_ipv6()))?;
        if !first.iter().any(|f| f.to == Some(aim.to.ip())) {
            bail!("the first answer does not leave");
        }
        if matches!(gate, Gate::Behind) && pinned::age_answers(self.lab.bpf_dir(), held.id())? == 0
        {
            bail!("no peer is known that wrote first");
        }
        let result = held.finish()?;
        self.judge(result, aim, true)
    }

    /// A forwarder outside the gate connects on request.
    pub(super) fn by_forwarder(&mut self, aim: &Aim) -> Result<(Seen, String)> {
        let loopback = SocketAddr::new(aim.loopback(), 0);
        let (listener, to) = (
            self.lab.node().run(|| TcpListener::bind(loopback))??,
            aim.to,
        );
        let near = Aim {
            to: listener.local_addr()?,
            ..aim.clone()
        };
        let namespace = self.lab.node().fd().try_clone_to_owned()?;
        let forwarder = thread::spawn(move || -> io::Result<()> {
            let (mut from, _) = listener.accept()?;
            crate::netns::setns(std::os::fd::AsRawFd::as_raw_fd(&namespace))?;
            let mut onward = TcpStream::connect(to)?;
            // The client ends with a reset, as every connection of a probe.
            let _ = io::copy(&mut from, &mut onward);
            Ok(())
        });
        let command = self.place(Gate::Behind).command(binary()?)?;
        let run = self.try_by(command, "tcp-connect", None, &near)?;
        forwarder
            .join()
            .map_err(|_| anyhow::anyhow!("the forwarder panicked"))??;
        let mut escaped = run.escaped;
        escaped.extend(self.settle(usize::from(aim.to.is_ipv6()))?);
        let words = Run { escaped, ..run };
        let open = !words.escaped.is_empty();
        Ok((if open { Seen::Open } else { Seen::Closed }, words.words()))
    }
}

/// The result behind the gate, provided that the same attempt outside the gate gets out.
fn seen((control, run): (Run, Run)) -> Result<(Seen, String)> {
    if control.escaped.is_empty() {
        bail!("outside the gate nothing leaves: {}", control.words());
    }
    let closed = run.escaped.is_empty();
    let seen = if closed { Seen::Closed } else { Seen::Open };
    Ok((seen, run.words()))
}

fn set_nonlocal_bind(namespace: &NetNs, value: &str) -> Result<()> {
    NONLOCAL_BIND
        .iter()
        .try_for_each(|key| namespace.sysctl(key, value))
}

/// A network namespace with a default route through the node.
fn neighbour_of(node: &NetNs) -> Result<NetNs> {
    let namespace = NetNs::new()?;
    let here = [("198.18.0.1".parse()?, 30), ("fd00:9::1".parse()?, 64)];
    let there = [("198.18.0.2".parse()?, 30), ("fd00:9::2".parse()?, 64)];
    node.connect("near0", &here, &namespace, "near0", &there)?;
    namespace.ip("route add default via 198.18.0.1\nroute add default via fd00:9::1")?;
    for key in ["all", "near0"] {
        node.sysctl(&format!("ipv4/conf/{key}/rp_filter"), "0")?;
    }
    Ok(namespace)
}
