//! Network namespaces that a test made, and the cable between two of them.
//!
//! Owns their creation. They end with the last process in them and descriptor of them. The machine's own namespace is
//! never changed.

mod link;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::thread;

/// A network namespace, held by a descriptor.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

impl NetNs {
    /// A namespace with nothing but loopback, which is up.
    pub fn new() -> Result<Self> {
        // Only this thread enters the namespace, and it ends before the function returns, so no other code can be in
        // the wrong namespace.
        let made = thread::spawn(|| -> Result<OwnedFd> {
            // SAFETY: a network namespace does not touch what the threads of a process share
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .context("cannot make a network namespace (root is needed)")?;
            Ok(fs::File::open("/proc/thread-self/ns/net")?.into())
        });
        let fd = made
            .join()
            .map_err(|_| anyhow!("the thread of a new namespace panicked"))??;
        let namespace = Self { fd };
        namespace.ip("link set lo up")?;
        // Without it, a device forwards nothing over IPv6 in its first second: its link-local address asks for neighbours.
        namespace.sysctl("ipv6/conf/default/accept_dad", "0")?;
        Ok(namespace)
    }

    /// Its descriptor, for `setns`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A path to it for `nsenter --net=`, valid while this process lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.fd.as_raw_fd()).into()
    }

    /// Runs `work` in a thread in the namespace. Sockets that it makes stay in the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                self.enter()?;
                Ok(work())
            });
            inside
                .join()
                .map_err(|_| anyhow!("the work inside a namespace panicked"))?
        })
    }

    /// Moves the calling thread into the namespace permanently. Only for threads made for this.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.fd(), Some(LinkNameSpaceType::Network))
            .context("cannot enter the namespace")
    }

    /// Runs lines of `ip` commands inside (ip(8) `-batch`).
    pub fn ip(&self, script: &str) -> Result<()> {
        let fd = self.fd.try_clone()?;
        let mut command = Command::new("ip");
        command
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // SAFETY: setns is a bare system call
        unsafe { command.pre_exec(move || setns(fd.as_raw_fd())) };
        let mut child = command.spawn().context("cannot run ip: install iproute2")?;
        let mut stdin = child.stdin.take().context("ip has a pipe")?;
        stdin.write_all(script.as_bytes())?;
        stdin.write_all(b"\n")?;
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "ip: {}: {}",
                script.trim(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Sets the largest segment of a device, in bytes, for both directions and both families. More than 65536 is BIG
    /// TCP.
    pub fn segments(&self, device: &str, bytes: u32) -> Result<()> {
        self.run(|| link::segments(device, bytes))?
            .with_context(|| format!("cannot set the segments of {device} to {bytes}"))
    }

    /// Sets a key below `net` of its sysctls, such as `ipv4/ip_local_port_range`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys/net").join(key);
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("cannot set net/{key}"))
    }

    /// Makes a cable to `other`: device `name` here and `other_name` there, both up, with the
    /// addresses given as `(address, prefix length)`.
    pub fn connect(
        &self,
        name: &str,
        here: &[(IpAddr, u8)],
        other: &Self,
        other_name: &str,
        there: &[(IpAddr, u8)],
    ) -> Result<()> {
        let peer = other.path();
        self.ip(&format!(
            "link add {name} type veth peer name {other_name} netns {}",
            peer.display()
        ))?;
        for (side, device, addresses) in [(self, name, here), (other, other_name, there)] {
            let mut script = format!("link set {device} up\n");
            for (address, prefix) in addresses {
                // nodad: a test does not wait a second for its own address.
                let nodad = if address.is_ipv6() { " nodad" } else { "" };
                writeln!(script, "addr add {address}/{prefix} dev {device}{nodad}")?;
            }
            side.ip(&script)?;
        }
        Ok(())
    }
}

/// `setns` for the moment between fork and exec.
pub(crate) fn setns(fd: libc::c_int) -> std::io::Result<()> {
    // SAFETY: no memory is passed
    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
