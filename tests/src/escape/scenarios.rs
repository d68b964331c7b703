//! The paths with more than one process: the harness kills the agent, fills tables, or replaces the proxy.

use super::Aim;
use super::flows::Flows;
use super::held::binary;
use super::suite::{Bench, PROXY_PORT, Seen, aim};
use super::table::Scenario;
use super::trial::{Gate, Run};
use crate::place::Place;
use anyhow::{Context as _, Result, bail};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// The probe that scenarios dial with.
const CONNECT: &str = "tcp-connect";

impl Bench {
    pub(super) fn scenario(&mut self, scenario: Scenario, over_v6: bool) -> Result<(Seen, String)> {
        let aim = aim(over_v6, self.port);
        match scenario {
            Scenario::Nested => {
                let below = self.lab.client_place().cgroup.context("a cgroup")?;
                let nested = below.child("nested")?;
                let place = Place {
                    cgroup: Some(&nested),
                    ..self.lab.client_place()
                };
                let command = place.command(binary()?)?;
                let run = self.try_by(command, CONNECT, None, &aim)?;
                Ok((closed_if(run.escaped.is_empty()), run.words()))
            }
            Scenario::NoOrigin => {
                let to = SocketAddr::new(aim.loopback(), PROXY_PORT);
                let answer = self.lab.node().run(|| ask(to))??;
                let words = format!("{} bytes of answer", answer.len());
                Ok((closed_if(answer.is_empty()), words))
            }
            Scenario::FlowsFlooded => self.with_flooded_flows(&aim),
            Scenario::NonlocalBind(probe) => self.with_nonlocal_bind(probe, &aim),
            Scenario::ClaimedStream(probe) => self.claimed_stream(probe, &aim),
            Scenario::Neighbour(probe) => self.by_neighbour(probe, false, &aim),
            Scenario::NonlocalNeighbour(probe) => self.by_neighbour(probe, true, &aim),
            Scenario::AnswerAged(probe) => self.answer_aged(probe, &aim),
            Scenario::Forwarder => self.by_forwarder(&aim),
            Scenario::AgentKilled => {
                self.kill_agent()?;
                let mut words = Vec::new();
                let mut closed = true;
                for (name, to) in [
                    (CONNECT, aim.to),
                    ("udp-sendto", aim.to),
                    (CONNECT, aim.proxied),
                ] {
                    let run = self.dial(name, to, &aim)?;
                    closed &= run.escaped.is_empty() && run.result.is_err();
                    words.push(run.words());
                }
                // A destination that needs no proxy is still reached.
                let run = self.dial(CONNECT, aim.listed, &aim)?;
                if run.result.is_err() {
                    bail!("a listed destination does not go on: {}", run.words());
                }
                Ok((closed_if(closed), words.join("; ")))
            }
            Scenario::PortTaken => {
                self.kill_agent()?;
                let at = SocketAddr::new(aim.loopback(), PROXY_PORT);
                let impostor = self.lab.node().run(|| TcpListener::bind(at))??;
                impostor.set_nonblocking(true)?;
                let run = self.dial(CONNECT, aim.proxied, &aim)?;
                let reached = impostor.accept().is_ok();
                Ok((closed_if(!reached && run.result.is_err()), run.words()))
            }
        }
    }

    /// Another probe behind the gate with another destination.
    fn dial(&mut self, name: &str, to: SocketAddr, aim: &Aim) -> Result<Run> {
        let command = self.place(Gate::Behind).command(binary()?)?;
        let aim = Aim { to, ..aim.clone() };
        self.try_by(command, name, None, &aim)
    }

    fn with_flooded_flows(&mut self, aim: &Aim) -> Result<(Seen, String)> {
        let mut flows = Flows::open(self.lab.bpf_dir())?;
        let count = flows.flood()?;
        let proxied = self.dial(CONNECT, aim.proxied, aim);
        let unlisted = self.dial(CONNECT, aim.to, aim);
        let left = flows.empty();
        let (proxied, unlisted) = (proxied?, unlisted?);
        if proxied.result.is_err() || left >= count {
            bail!(
                "{left} of {count} are left, and a flow has no room: {}",
                proxied.words()
            );
        }
        let closed = unlisted.result.is_err() && unlisted.escaped.is_empty();
        let words = format!("{count} flows, {}", unlisted.words());
        Ok((closed_if(closed), words))
    }

    fn kill_agent(&mut self) -> Result<()> {
        if !self.killed {
            self.lab.agent()?.kill()?;
            self.killed = true;
        }
        Ok(())
    }
}

fn closed_if(closed: bool) -> Seen {
    if closed { Seen::Closed } else { Seen::Open }
}

/// Asks a server for a page, and returns the bytes before the end of any kind.
fn ask(to: SocketAddr) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: httpbin.org\r\n\r\n");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(answer)
}
