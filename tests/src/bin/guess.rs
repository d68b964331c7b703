//! A client that guesses answers: it finds the UDP ports of this namespace on which a process waits for an answer, and
//! sends datagrams that could be the answer.
//!
//! Owns sockets only; it runs inside a cgroup and a namespace that a test chose. It continues until its standard input
//! ends, and then prints the number of datagrams and ports as a line of JSON.

use clap::Parser;
use hickory_proto::op::{Message, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::json;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddrV4, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Datagrams of one `sendmmsg`.
const BATCH: usize = 512;

#[derive(Parser)]
struct Cli {
    /// The socket's local address. Its port is the datagrams' source port.
    #[arg(long)]
    bind: SocketAddrV4,
    /// The source address that the datagrams claim (`IP_PKTINFO`).
    #[arg(long)]
    source: IpAddr,
    /// The destination address, for each port that is found.
    #[arg(long, default_value = "127.0.0.1")]
    to: IpAddr,
    /// The name of the question that the datagrams answer.
    #[arg(long)]
    name: Name,
    /// The address in the answers.
    #[arg(long)]
    address: IpAddr,
    /// The most datagrams in a second, over all ports.
    #[arg(long)]
    rate: Option<u64>,
}

fn main() -> ExitCode {
    let over = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&over);
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        watched.store(true, Ordering::Relaxed);
    });
    match guess(&Cli::parse(), &over) {
        Ok((sent, ports)) => {
            println!("{}", json!({ "sent": sent, "ports": ports }));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", json!({ "error": error.to_string() }));
            ExitCode::FAILURE
        }
    }
}

fn guess(cli: &Cli, over: &AtomicBool) -> io::Result<(u64, usize)> {
    let (IpAddr::V4(source), IpAddr::V4(to), IpAddr::V4(address)) =
        (cli.source, cli.to, cli.address)
    else {
        return Err(io::Error::other("IPv4 only"));
    };
    let socket = UdpSocket::bind(cli.bind)?;
    let own = socket.local_addr()?.port();
    let mut batch = vec![answer(&cli.name, address)?; BATCH];
    println!("up");
    let (start, mut sent, mut seen) = (Instant::now(), 0_u64, BTreeSet::<u16>::new());
    while !over.load(Ordering::Relaxed) {
        let ports: Vec<u16> = open_ports()?.into_iter().filter(|p| *p != own).collect();
        seen.extend(&ports);
        for port in ports {
            for first in (0..=u16::MAX).step_by(BATCH) {
                let to = SocketAddrV4::new(to, port);
                sent += send(&socket, source, to, &mut batch, first);
                if let Some(rate) = cli.rate {
                    let due = Duration::from_micros(sent * 1_000_000 / rate);
                    thread::sleep(due.saturating_sub(start.elapsed()));
                    // It continues with the next port, because a question is open for seconds.
                    if first > 0 {
                        break;
                    }
                }
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    }
    Ok((sent, seen.len()))
}

fn answer(name: &Name, address: std::net::Ipv4Addr) -> io::Result<Vec<u8>> {
    let mut name = name.clone();
    name.set_fqdn(true);
    let mut answer = Message::response(0, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    answer.add_query(Query::query(name.clone(), RecordType::A));
    answer.add_answer(Record::from_rdata(name, 300, RData::A(A(address))));
    answer.to_vec().map_err(io::Error::other)
}

/// Local ports of this namespace's IPv4 datagram sockets, without well-known ports.
fn open_ports() -> io::Result<Vec<u16>> {
    let text = std::fs::read_to_string("/proc/net/udp")?;
    let port = |line: &str| {
        let local = line.split_whitespace().nth(1)?;
        u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
    };
    let ports = text.lines().skip(1).filter_map(port);
    Ok(ports.filter(|port| *port >= 1024).collect())
}

/// Sends the batch with each id from `first` on. Returns the number of sent datagrams.
fn send(
    socket: &UdpSocket,
    source: std::net::Ipv4Addr,
    to: SocketAddrV4,
    batch: &mut [Vec<u8>],
    first: u16,
) -> u64 {
    use std::os::fd::AsRawFd as _;
    // SAFETY: plain numbers; all zero is a value of each of these
    let (mut name, mut info): (libc::sockaddr_in, libc::in_pktinfo) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    name.sin_family = libc::AF_INET as u16;
    name.sin_port = to.port().to_be();
    name.sin_addr.s_addr = u32::from(*to.ip()).to_be();
    info.ipi_spec_dst.s_addr = u32::from(source).to_be();
    // Room for one control message, aligned as `cmsghdr` wants it.
    let mut control = [0_u64; 8];
    // SAFETY: CMSG_LEN and CMSG_SPACE only compute
    let (length, space) = unsafe {
        let of = size_of::<libc::in_pktinfo>() as u32;
        (libc::CMSG_LEN(of), libc::CMSG_SPACE(of))
    };
    // SAFETY: the room holds a header and the option, and is aligned for both
    unsafe {
        let header = control.as_mut_ptr().cast::<libc::cmsghdr>();
        (*header).cmsg_len = length as usize;
        (*header).cmsg_level = libc::IPPROTO_IP;
        (*header).cmsg_type = libc::IP_PKTINFO;
        libc::CMSG_DATA(header)
            .cast::<libc::in_pktinfo>()
            .write_unaligned(info);
    }
    for (n, bytes) in (0..).zip(batch.iter_mut()) {
        bytes[..2].copy_from_slice(&first.wrapping_add(n).to_be_bytes());
    }
    let mut vectors: Vec<libc::iovec> = batch
        .iter_mut()
        .map(|bytes| libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: plain numbers and null pointers
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = (&raw mut name).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = space as usize;
            message
        })
        .collect();
    // SAFETY: every pointer in the messages is to a value that outlives the call
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, 0) };
    // The send was denied, or the port was closed meanwhile. The next one may succeed.
    u64::try_from(sent).unwrap_or_default()
}
