//! What arrives outside: every frame on the cable, read by a packet socket in the outside's
//! namespace.
//!
//! Owns the reading, and separates the probes' frames from those that the kernel sends on any link.
//! The caller decides which frames are allowed.

use super::PAYLOAD;
use crate::netns::NetNs;
use crate::wait::wait_until;
use anyhow::{Context as _, Result};
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

/// The payload of the harness's own datagrams. Once one arrives, everything sent before has been seen.
const SENTINEL: &[u8] = b"escape-suite sentinel ";
/// How long a sentinel may take.
const SOON: Duration = Duration::from_secs(5);
/// `PACKET_OUTGOING`: sent by the outside itself.
const OUTGOING: u8 = 4;

/// One frame that came in from the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its EtherType.
    pub kind: u16,
    /// The destination of its IP header.
    pub to: Option<IpAddr>,
    /// Protocol or next header.
    pub protocol: u8,
    /// Destination port of TCP and UDP directly after the IP header, else 0.
    pub port: u16,
    bytes: Vec<u8>,
}

impl Frame {
    fn parse(bytes: &[u8]) -> Self {
        let kind = u16::from_be_bytes([at(bytes, 12), at(bytes, 13)]);
        let packet = bytes.get(14..).unwrap_or_default();
        let (to, protocol, behind) = match kind {
            0x0800 => (
                packet
                    .get(16..20)
                    .map(|b| IpAddr::from([b[0], b[1], b[2], b[3]])),
                at(packet, 9),
                usize::from(at(packet, 0) & 15) * 4,
            ),
            0x86dd => {
                let to = packet
                    .get(24..40)
                    .and_then(|b| <[u8; 16]>::try_from(b).ok());
                (to.map(IpAddr::from), at(packet, 6), 40)
            }
            _ => (None, 0, 0),
        };
        let port = if matches!(protocol, 6 | 17) && to.is_some() {
            u16::from_be_bytes([at(packet, behind + 2), at(packet, behind + 3)])
        } else {
            0
        };
        Self {
            kind,
            to,
            protocol,
            port,
            bytes: bytes.to_vec(),
        }
    }

    /// Whether it is a frame that any kernel sends on any link: ARP, neighbour and listener discovery.
    fn is_noise(&self) -> bool {
        const ARP: u16 = 0x0806;
        let icmp6 = |offset| {
            (130..=137).contains(&at(&self.bytes, offset)) || at(&self.bytes, offset) == 143
        };
        match (self.kind, self.protocol) {
            (ARP, _) => true,
            (0x86dd, 58) => icmp6(54) && !self.contains(PAYLOAD),
            // Listener reports come after a router alert. Reports for a probe's group are not noise.
            (0x86dd, 0) => at(&self.bytes, 54) == 58 && icmp6(62) && !self.contains(&GROUP6),
            _ => self.contains(SENTINEL),
        }
    }

    /// Whether the bytes occur in it.
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.bytes.windows(needle.len()).any(|w| w == needle)
    }

    /// The same without regard to upper and lower case.
    pub fn contains_text(&self, needle: &str) -> bool {
        let mut windows = self.bytes.windows(needle.len());
        windows.any(|w| w.eq_ignore_ascii_case(needle.as_bytes()))
    }

    /// Its bytes as text.
    pub fn text(&self) -> String {
        self.bytes.escape_ascii().to_string()
    }

    /// Whether it is an ICMP "destination unreachable".
    pub fn is_unreachable(&self) -> bool {
        match (self.kind, self.protocol) {
            (0x0800, 1) => at(&self.bytes, 34) == 3,
            (0x86dd, 58) => at(&self.bytes, 54) == 1,
            _ => false,
        }
    }
}

/// The group that a probe joins.
const GROUP6: [u8; 16] = [0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

fn at(bytes: &[u8], index: usize) -> u8 {
    bytes.get(index).copied().unwrap_or_default()
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.to {
            Some(to) => write!(f, "{to} protocol {} port {}", self.protocol, self.port),
            None => write!(f, "EtherType {:#06x}", self.kind),
        }
    }
}

/// A packet socket at the far end of the cable.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    pending: Vec<Frame>,
    rounds: u32,
}

impl Capture {
    /// Starts to capture in `outside`.
    pub fn start(outside: &NetNs) -> Result<Self> {
        const ALL: u16 = libc::ETH_P_ALL as u16;
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let protocol = i32::from(ALL.to_be());
        let socket = outside.run(|| {
            // SAFETY: no memory is passed
            let fd = unsafe { libc::socket(libc::AF_PACKET, kind, protocol) };
            if fd < 0 {
                return Err(std::io::Error::last_os_error());
            }
            // SAFETY: the kernel just made it for this process
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })?;
        let socket = socket.context("a packet socket in the outside's namespace")?;
        let size: libc::c_int = 16 << 20;
        // SAFETY: the value is read for its own length. A smaller buffer would do too.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const size).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        Ok(Self {
            socket,
            pending: Vec::new(),
            rounds: 0,
        })
    }

    /// Everything that was sent from `node` before this call, without noise. `router` is the far
    /// end's address.
    ///
    /// A packet waits in the queue of the processor that sent it, so each processor sends a sentinel.
    pub fn settle(&mut self, node: &NetNs, router: IpAddr) -> Result<Vec<Frame>> {
        self.rounds += 1;
        let processors = processors();
        for cpu in &processors {
            let text = self.sentinel(*cpu);
            node.run(|| send_from(*cpu, router, &text))??;
        }
        let awaited: Vec<Vec<u8>> = processors.iter().map(|cpu| self.sentinel(*cpu)).collect();
        wait_until("the sentinels come by", SOON, || {
            self.read();
            awaited
                .iter()
                .all(|text| self.pending.iter().any(|f| f.contains(text)))
                .then_some(())
        })?;
        let mut frames = std::mem::take(&mut self.pending);
        frames.retain(|frame| !frame.is_noise());
        Ok(frames)
    }

    fn sentinel(&self, cpu: usize) -> Vec<u8> {
        let mut text = SENTINEL.to_vec();
        text.extend_from_slice(format!("{}/{cpu};", self.rounds).as_bytes());
        text
    }

    fn read(&mut self) {
        let mut buffer = vec![0_u8; 70_000];
        loop {
            // SAFETY: all zeroes are a valid value of this plain structure
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: buffer and address are written within the lengths given
            let read = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            let Ok(read) = usize::try_from(read) else {
                return;
            };
            let loopback = from.sll_hatype == libc::ARPHRD_LOOPBACK;
            if from.sll_pkttype != OUTGOING && !loopback {
                self.pending.push(Frame::parse(&buffer[..read]));
            }
        }
    }
}

/// Every processor that this process may run on.
fn processors() -> Vec<usize> {
    let count = thread::available_parallelism().map_or(1, usize::from);
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let last = online
        .trim()
        .rsplit(['-', ','])
        .next()
        .and_then(|n| n.parse::<usize>().ok())
        .unwrap_or(count - 1);
    (0..=last).collect()
}

/// Sends a datagram from one processor. A processor that this process may not use sends none, and has sent nothing
/// before.
fn send_from(cpu: usize, router: IpAddr, text: &[u8]) -> Result<()> {
    // SAFETY: the set is a plain structure on this stack; the thread is made for this and ends
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
    let any = if router.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    UdpSocket::bind(any)?.send_to(text, SocketAddr::new(router, 9))?;
    Ok(())
}
