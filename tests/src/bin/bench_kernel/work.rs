//! The measured calls, in the place of one configuration.

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

/// The port of every destination.
pub const PORT: u16 = 443;
/// 20.0.0.0/8: all of it is local in the bench's namespaces.
const BASE: u32 = 0x1400_0000;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Call {
    /// connect() of a datagram socket.
    UdpConnect,
    /// A connection from socket() to close().
    TcpCycle,
    /// A datagram with an address.
    UdpSendto,
    /// A datagram of a connected socket.
    UdpSend,
}

/// All of them.
pub const CALLS: [Call; 4] = [
    Call::UdpConnect,
    Call::TcpCycle,
    Call::UdpSendto,
    Call::UdpSend,
];

impl Call {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UdpConnect => "UDP connect",
            Self::TcpCycle => "TCP connect+close",
            Self::UdpSendto => "UDP sendto",
            Self::UdpSend => "UDP send, connected",
        }
    }

    /// The number of calls in one batch, which takes two or three milliseconds. The machine's speed is constant for
    /// such a short time.
    pub const fn times(self) -> u32 {
        match self {
            Self::UdpConnect => 3000,
            Self::TcpCycle => 150,
            Self::UdpSendto | Self::UdpSend => 1600,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// The address of a destination.
pub fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(BASE + 2 * n)
}

/// Runs in the place of one configuration: makes a batch of calls for each input line, and prints the time of one call.
/// Ends with its input.
pub fn serve(call: Call, spread: u32, join: Option<&Path>) -> Result<()> {
    // All configurations use the same processor, because others may have another speed.
    let mut processor = CpuSet::new();
    processor.set(first_processor()?);
    sched_setaffinity(None, &processor)?;
    let work = Work::new(call, spread, join)?;
    let times = call.times();
    for (batch, line) in (0..).zip(io::stdin().lines()) {
        line?;
        let (cpu, wall) = (cpu_time()?, Instant::now());
        work.run(call, times.wrapping_mul(batch), times)?;
        let (wall, cpu) = (wall.elapsed(), cpu_time()?.saturating_sub(cpu));
        let each = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(times);
        println!("{} {}", each(wall), each(cpu));
    }
    Ok(())
}

/// The first processor that this process may run on.
fn first_processor() -> Result<usize> {
    let allowed = sched_getaffinity(None)?;
    (0..CpuSet::MAX_CPU)
        .find(|n| allowed.is_set(*n))
        .context("a process has a processor")
}

struct Work {
    socket: UdpSocket,
    listener: Option<TcpListener>,
    spread: u32,
    _receiver: UdpSocket,
}

impl Work {
    fn new(call: Call, spread: u32, join: Option<&Path>) -> Result<Self> {
        // The other side is made outside the cgroup, because its costs are not those of a workload. It receives
        // datagrams, so that there is no ICMP error. A full buffer drops them.
        let receiver = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        let listener = (call == Call::TcpCycle)
            .then(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))
            .transpose()?;
        if let Some(cgroup) = join {
            std::fs::write(cgroup.join("cgroup.procs"), "0")?;
        }
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        if call == Call::UdpSend {
            socket.connect((address(0), PORT))?;
        }
        Ok(Self {
            socket,
            listener,
            spread,
            _receiver: receiver,
        })
    }

    /// Connects, accepts and closes. The other side then resets, so that no port is left in TIME_WAIT. All of it
    /// runs in one thread, because waiting for another thread would measure the scheduler.
    fn cycle(&self, to: SocketAddr) -> io::Result<()> {
        let stream = std::net::TcpStream::connect(to)?;
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        let (accepted, _) = listener.accept()?;
        drop(stream);
        rustix::net::sockopt::set_socket_linger(&accepted, Some(Duration::ZERO))
            .map_err(io::Error::from)
    }

    fn run(&self, call: Call, from: u32, times: u32) -> io::Result<()> {
        for n in (0..times).map(|n| from.wrapping_add(n)) {
            // The step is prime to every size, so the whole table is visited, out of order.
            let at = (u64::from(n) * 7919 % u64::from(self.spread)) as u32;
            let to = SocketAddr::new(IpAddr::V4(address(at)), PORT);
            match call {
                Call::UdpConnect => self.socket.connect(to)?,
                Call::TcpCycle => self.cycle(to)?,
                // Eight datagrams to each destination.
                Call::UdpSendto => {
                    let at = (u64::from(n / 8) * 7919 % u64::from(self.spread)) as u32;
                    self.socket.send_to(b"x", (address(at), PORT)).map(drop)?;
                }
                Call::UdpSend => self.socket.send(b"x").map(drop)?,
            }
        }
        Ok(())
    }
}

/// Processor time of this thread in nanoseconds, without waiting time.
fn cpu_time() -> Result<Duration> {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Ok(Duration::try_from(at)?)
}
