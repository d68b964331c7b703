//! Threads that share sockets and send to listed and unlisted destinations at the same time, by
//! every kind of call, for a given time. Prints as one line of JSON how many sends went through.
//!
//! The test counts what arrived where.

use clap::Parser;
use io_uring::{IoUring, opcode, types};
use serde_json::json;
use std::io;
use std::mem;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const NOBODY: u32 = 65_534;

/// Race sends on shared sockets.
#[derive(Parser)]
struct Cli {
    /// As user nobody, without capabilities.
    #[arg(long)]
    nobody: bool,
    #[arg(long)]
    seconds: u64,
    #[arg(long, default_value_t = 8)]
    threads: u64,
    /// Where to connect datagram sockets; anywhere if there is none.
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// Where to send, of one family.
    to: Vec<SocketAddr>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> io::Result<serde_json::Value> {
    if cli.nobody {
        // SAFETY: plain integers; no group is read from a null pointer of length 0.
        unsafe {
            check(libc::setgroups(0, std::ptr::null()))?;
            check(libc::setgid(NOBODY))?;
            check(libc::setuid(NOBODY))?;
        }
    }
    let v6 = cli.to.first().is_some_and(SocketAddr::is_ipv6);
    let names: Vec<Name> = cli.to.iter().map(Name::of).collect();
    // One datagram socket for all threads gives the most races. More sockets give other orders.
    let datagrams = [socket(v6, libc::SOCK_DGRAM)?, socket(v6, libc::SOCK_DGRAM)?];
    let streams = [
        socket(v6, libc::SOCK_STREAM)?,
        socket(v6, libc::SOCK_STREAM)?,
    ];
    let (sent, denied) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(cli.seconds);
    thread::scope(|scope| {
        for number in 0..cli.threads {
            let (names, datagrams, streams) = (&names, &datagrams, &streams);
            let (sent, denied) = (&sent, &denied);
            scope.spawn(move || {
                let connect = cli.connect.as_ref().map(Name::of);
                let mut thread = Thread::new(number, names, connect);
                while Instant::now() < end {
                    let on = &datagrams[thread.below(10) / 9];
                    let (good, bad) = thread.datagrams(on.as_raw_fd());
                    sent.fetch_add(good, Ordering::Relaxed);
                    denied.fetch_add(bad, Ordering::Relaxed);
                    let on = &streams[thread.below(2)];
                    thread.stream(on.as_raw_fd());
                }
            });
        }
    });
    Ok(json!({ "sent": sent.into_inner(), "failed": denied.into_inner() }))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn socket(v6: bool, kind: libc::c_int) -> io::Result<OwnedFd> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: plain integers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_NONBLOCK, 0) };
    check(fd)?;
    // SAFETY: a descriptor that the call just made, owned by nothing else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A socket address as the kernel takes it.
#[derive(Clone, Copy)]
struct Name {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Name {
    fn of(to: &SocketAddr) -> Self {
        // SAFETY: zeroes are a valid value; each family's struct fits into the storage.
        unsafe {
            let mut storage: libc::sockaddr_storage = mem::zeroed();
            let length = match to {
                SocketAddr::V4(v4) => put(&mut storage, in4(*v4)),
                SocketAddr::V6(v6) => put(&mut storage, in6(v6)),
            };
            Self { storage, length }
        }
    }

    fn ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }
}

unsafe fn put<T>(storage: &mut libc::sockaddr_storage, value: T) -> libc::socklen_t {
    // SAFETY: the caller's types fit.
    unsafe { (&raw mut *storage).cast::<T>().write(value) };
    mem::size_of::<T>() as libc::socklen_t
}

fn in4(to: SocketAddrV4) -> libc::sockaddr_in {
    // SAFETY: zeroes are a valid value.
    let mut name: libc::sockaddr_in = unsafe { mem::zeroed() };
    name.sin_family = libc::AF_INET as libc::sa_family_t;
    name.sin_port = to.port().to_be();
    name.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
    name
}

fn in6(to: &SocketAddrV6) -> libc::sockaddr_in6 {
    // SAFETY: zeroes are a valid value.
    let mut name: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    name.sin6_port = to.port().to_be();
    name.sin6_addr.s6_addr = to.ip().octets();
    name
}

struct Thread<'a> {
    random: u64,
    names: &'a [Name],
    connect: Option<Name>,
    /// `None` if the system has no rings.
    ring: Option<IoUring>,
}

impl<'a> Thread<'a> {
    fn new(number: u64, names: &'a [Name], connect: Option<Name>) -> Self {
        Self {
            random: (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            names,
            connect,
            ring: IoUring::new(8).ok(),
        }
    }

    /// Xorshift: no lock, no system call.
    fn below(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) as usize % end
    }

    fn name(&mut self) -> Name {
        let at = self.below(self.names.len());
        self.names[at]
    }

    /// Repeats one kind of call: sends on the connected socket, sends to two destinations in turn, or connects again.
    /// Returns the numbers of successes and failures.
    fn datagrams(&mut self, fd: RawFd) -> (u64, u64) {
        let pair = [self.name(), self.name()];
        let kind = self.below(16);
        let turns = if kind == 0 { 1 } else { 512 };
        let mut good = 0;
        for turn in 0..turns {
            let to = pair[turn % 2];
            // SAFETY: a name of this thread's, as long as said.
            let outcome = match kind {
                0 => Self::connect(fd, self.connect.unwrap_or(to)),
                // SAFETY: as above.
                1..=6 => sent(unsafe { libc::send(fd, b"race".as_ptr().cast(), 4, 0) }),
                // SAFETY: as above.
                7..=12 => sent(unsafe {
                    libc::sendto(fd, b"race".as_ptr().cast(), 4, 0, to.ptr(), to.length)
                }),
                13 | 14 => self.many(fd),
                _ => self.by_ring(fd, to),
            };
            good += u64::from(outcome.is_ok());
        }
        (good, turns as u64 - good)
    }

    /// Connects after AF_UNSPEC, which releases the source address of the previous connect.
    fn connect(fd: RawFd, to: Name) -> io::Result<()> {
        // SAFETY: a family alone is a name for AF_UNSPEC; the other as in `datagrams`.
        unsafe {
            let nowhere: libc::sockaddr_storage = mem::zeroed();
            check(libc::connect(fd, (&raw const nowhere).cast(), 16))?;
            check(libc::connect(fd, to.ptr(), to.length))
        }
    }

    fn many(&mut self, fd: RawFd) -> io::Result<()> {
        let mut names = [self.name(), self.name(), self.name()];
        let mut part = libc::iovec {
            iov_base: b"race".as_ptr().cast_mut().cast(),
            iov_len: 4,
        };
        // SAFETY: zeroes are a valid value of each; what they point to outlives the call.
        unsafe {
            let mut all: [libc::mmsghdr; 3] = mem::zeroed();
            for (message, name) in all.iter_mut().zip(&mut names) {
                message.msg_hdr.msg_name = (&raw mut name.storage).cast();
                message.msg_hdr.msg_namelen = name.length;
                message.msg_hdr.msg_iov = &raw mut part;
                message.msg_hdr.msg_iovlen = 1;
            }
            check(libc::sendmmsg(fd, all.as_mut_ptr(), 3, 0))
        }
    }

    fn by_ring(&mut self, fd: RawFd, to: Name) -> io::Result<()> {
        let connected = self.below(2) == 0;
        let Some(ring) = &mut self.ring else {
            return Ok(());
        };
        let send = opcode::Send::new(types::Fd(fd), b"race".as_ptr(), 4);
        let send = if connected {
            send
        } else {
            send.dest_addr(to.ptr()).dest_addr_len(to.length)
        };
        // SAFETY: the buffer is static and the name outlives the wait below.
        unsafe {
            ring.submission()
                .push(&send.build())
                .map_err(io::Error::other)?;
        }
        ring.submit_and_wait(1)?;
        let results: Vec<i32> = ring.completion().map(|entry| entry.result()).collect();
        match results.iter().find(|result| **result < 0) {
            Some(error) => Err(io::Error::from_raw_os_error(-error)),
            None => Ok(()),
        }
    }

    /// One step of a stream's life. The receiver sees the outcome.
    fn stream(&mut self, fd: RawFd) {
        let to = self.name();
        // SAFETY: as in `datagrams`; a family alone is a name for AF_UNSPEC.
        unsafe {
            match self.below(4) {
                0 | 1 => drop(check(libc::connect(fd, to.ptr(), to.length))),
                2 => drop(sent(libc::send(
                    fd,
                    b"race".as_ptr().cast(),
                    4,
                    libc::MSG_NOSIGNAL,
                ))),
                _ => {
                    let nowhere: libc::sockaddr_storage = mem::zeroed();
                    drop(check(libc::connect(fd, (&raw const nowhere).cast(), 16)));
                }
            }
        }
    }
}

fn sent(result: isize) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
