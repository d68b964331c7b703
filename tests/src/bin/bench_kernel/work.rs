//! The calls that are measured, made in the place of one configuration.

use std::fmt;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

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

    /// Calls in one sample.
    pub const fn times(self) -> u32 {
        match self {
            Self::UdpConnect => 100_000,
            Self::TcpCycle => 4000,
            Self::UdpSendto | Self::UdpSend => 40_000,
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

/// In the place of one configuration: the calls, one after another.
pub fn measure(call: Call, spread: u32, join: Option<&Path>) -> Result<()> {
    // A quarter first, to warm up.
    let quarter = call.times() / 4;
    let work = Work::new(call, spread, join)?;
    work.run(call, 0, quarter)?;
    let (cpu, wall) = (cpu_time()?, Instant::now());
    work.run(call, quarter, quarter + call.times())?;
    let (wall, cpu) = (wall.elapsed(), cpu_time()?.saturating_sub(cpu));
    let each = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(call.times());
    println!("{} {}", each(wall), each(cpu));
    Ok(())
}

struct Work {
    socket: UdpSocket,
    listener: Option<TcpListener>,
    spread: u32,
    _receiver: UdpSocket,
}

impl Work {
    fn new(call: Call, spread: u32, join: Option<&Path>) -> Result<Self> {
        // The other side is made outside: what it costs is no workload's.
        // Takes datagrams in, so that no ICMP error is made; a full buffer drops them.
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

    /// Connects, accepts and resets, so that no port is left in TIME_WAIT. In one thread: whoever
    /// waits for another measures the scheduler.
    fn cycle(&self, to: SocketAddr) -> io::Result<()> {
        let stream = std::net::TcpStream::connect(to)?;
        if let Some(listener) = &self.listener {
            listener.accept()?;
        }
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))
            .map_err(io::Error::from)
    }

    fn run(&self, call: Call, from: u32, to: u32) -> io::Result<()> {
        for n in from..to {
            // A step that is prime to every size: the whole table is walked, out of order.
            let at = (u64::from(n) * 7919 % u64::from(self.spread)) as u32;
            let to = SocketAddr::new(IpAddr::V4(address(at)), PORT);
            match call {
                Call::UdpConnect => self.socket.connect(to)?,
                Call::TcpCycle => self.cycle(to)?,
                // A flow of eight to each.
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

/// User and system time of this process (getrusage(2)).
fn cpu_time() -> Result<Duration> {
    // SAFETY: integers only, for which zeroes are a value.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: the call fills in the whole struct.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    let of = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.cast_unsigned())
            + Duration::from_micros(t.tv_usec.cast_unsigned())
    };
    Ok(of(usage.ru_utime) + of(usage.ru_stime))
}
