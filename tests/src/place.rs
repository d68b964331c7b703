//! Where a process of a test runs: its cgroup, network namespace and resolver configuration.
//!
//! Owns what happens between fork and exec. The places themselves are `cgroup` and `netns`.

use crate::cgroup::Cgroup;
use crate::folder::folder;
use crate::netns::{NetNs, setns};
use anyhow::{Context as _, Result};
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A place for processes. An empty place is that of the test itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// The cgroup that the process joins before it executes.
    pub cgroup: Option<&'a Cgroup>,
    /// Its network namespace.
    pub netns: Option<&'a NetNs>,
    /// Its resolver configuration.
    pub resolver: Option<&'a ResolverFiles>,
}

impl Place<'_> {
    /// The command of `program` in this place, without environment variables for proxies.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        for name in [
            "http_proxy",
            "https_proxy",
            "all_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
        ] {
            command.env_remove(name);
        }
        let procs = self
            .cgroup
            .map(|cgroup| {
                OpenOptions::new()
                    .write(true)
                    .open(cgroup.path().join("cgroup.procs"))
            })
            .transpose()
            .context("cannot open cgroup.procs")?;
        let netns = self
            .netns
            .map(|netns| netns.fd().try_clone_to_owned())
            .transpose()?;
        let binds = self.resolver.map(ResolverFiles::binds).transpose()?;
        // SAFETY: the closure only makes system calls, with descriptors and memory from before the fork
        unsafe {
            command.pre_exec(move || move_there(procs.as_ref(), netns.as_ref(), binds.as_deref()))
        };
        Ok(command)
    }
}

/// Runs in the child between fork and exec: nothing here may allocate or lock.
fn move_there(
    procs: Option<&File>,
    netns: Option<&OwnedFd>,
    binds: Option<&[(CString, CString)]>,
) -> io::Result<()> {
    if let Some(netns) = netns {
        setns(netns.as_raw_fd())?;
    }
    if let Some(binds) = binds {
        private_mounts(binds)?;
    }
    if let Some(mut procs) = procs {
        // 0 is the writer itself (cgroup_procs_write in kernel/cgroup/cgroup.c).
        procs.write_all(b"0")?;
    }
    Ok(())
}

fn private_mounts(binds: &[(CString, CString)]) -> io::Result<()> {
    let none = std::ptr::null();
    let mut ok = {
        // SAFETY: a single-threaded child leaves the mounts that it shared
        unsafe { libc::unshare(libc::CLONE_NEWNS) == 0 }
    };
    // SAFETY: the strings outlive the call
    ok = ok
        && unsafe {
            libc::mount(
                none,
                c"/".as_ptr(),
                none,
                libc::MS_REC | libc::MS_PRIVATE,
                none.cast(),
            ) == 0
        };
    for (source, target) in binds {
        // SAFETY: the strings outlive the call
        ok = ok
            && unsafe {
                libc::mount(
                    source.as_ptr(),
                    target.as_ptr(),
                    none,
                    libc::MS_BIND,
                    none.cast(),
                ) == 0
            };
    }
    if ok {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A test's own `resolv.conf` and `nsswitch.conf`, mounted over the machine's for one process.
#[derive(Debug)]
pub struct ResolverFiles {
    dir: TempDir,
}

impl ResolverFiles {
    /// Files that name `servers` and no other source but `/etc/hosts`.
    pub fn new(servers: &[IpAddr]) -> Result<Self> {
        let dir = folder("etc")?;
        let mut resolv = String::from("options timeout:2 attempts:2\n");
        for server in servers {
            writeln!(resolv, "nameserver {server}")?;
        }
        std::fs::write(dir.path().join("resolv.conf"), resolv)?;
        // Without it, a client would ask systemd-resolved through a Unix socket.
        std::fs::write(dir.path().join("nsswitch.conf"), "hosts: files dns\n")?;
        Ok(Self { dir })
    }

    /// The folder that holds them.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn binds(&self) -> Result<Vec<(CString, CString)>> {
        let mut binds = Vec::new();
        for name in ["resolv.conf", "nsswitch.conf"] {
            let target = Path::new("/etc").join(name);
            if target.exists() {
                let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
                binds.push((text(&self.dir.path().join(name))?, text(&target)?));
            }
        }
        Ok(binds)
    }
}
