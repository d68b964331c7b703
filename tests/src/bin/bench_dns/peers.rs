//! The servers that the agent is compared with: their configurations, with an answer cache and without one.

use anyhow::Result;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// A program with its arguments.
pub struct Program {
    pub name: &'static str,
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
}

/// The three servers, which listen at `base` and the two ports after it.
pub fn all(folder: &Path, base: SocketAddr, upstream: IpAddr, keeps: bool) -> Result<[Program; 3]> {
    let at = |n: u16| SocketAddr::new(base.ip(), base.port() + n);
    Ok([
        dnsdist(folder, at(0), upstream, keeps)?,
        dnsmasq(at(1), upstream, keeps),
        unbound(folder, at(2), upstream, keeps)?,
    ])
}

fn program(name: &'static str, arguments: &[String]) -> Program {
    let packaged = Path::new("/usr/sbin").join(name);
    Program {
        name,
        path: if packaged.exists() {
            packaged
        } else {
            name.into()
        },
        arguments: arguments.iter().map(OsString::from).collect(),
    }
}

fn written(folder: &Path, name: &str, port: u16, text: &str) -> Result<String> {
    let path = folder.join(format!("{name}-{port}.conf"));
    fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

fn dnsdist(folder: &Path, at: SocketAddr, upstream: IpAddr, keeps: bool) -> Result<Program> {
    let cache = if keeps {
        "getPool(''):setCache(newPacketCache(100000))\n"
    } else {
        ""
    };
    // Without a check of the server's health, which asks for a name of the root's.
    let text = format!(
        "setLocal('{at}')\nsetACL('0.0.0.0/0')\nsetSecurityPollSuffix('')\n\
         newServer({{address='{upstream}:53'}}):setUp()\n{cache}"
    );
    let file = written(folder, "dnsdist", at.port(), &text)?;
    let arguments = ["--supervised", "--disable-syslog", "-C", &file];
    Ok(program("dnsdist", &arguments.map(String::from)))
}

fn dnsmasq(at: SocketAddr, upstream: IpAddr, keeps: bool) -> Program {
    let arguments = [
        "--keep-in-foreground".to_owned(),
        "--conf-file=/dev/null".to_owned(),
        "--pid-file=".to_owned(),
        "--log-facility=-".to_owned(),
        "--user=root".to_owned(),
        "--no-resolv".to_owned(),
        "--no-hosts".to_owned(),
        "--bind-interfaces".to_owned(),
        "--dns-forward-max=2000".to_owned(),
        format!("--listen-address={}", at.ip()),
        format!("--port={}", at.port()),
        format!("--server={upstream}"),
        format!("--cache-size={}", if keeps { 10_000 } else { 0 }),
    ];
    program("dnsmasq", &arguments)
}

fn unbound(folder: &Path, at: SocketAddr, upstream: IpAddr, keeps: bool) -> Result<Program> {
    let longest = if keeps { 86_400 } else { 0 };
    let text = format!(
        "server:\n  interface: {}@{}\n  access-control: 0.0.0.0/0 allow\n  do-daemonize: no\n  username: \"\"\n  \
         chroot: \"\"\n  directory: \"{}\"\n  pidfile: \"\"\n  use-syslog: no\n  module-config: \"iterator\"\n  \
         num-threads: 1\n  outgoing-range: 4096\n  num-queries-per-thread: 2048\n  cache-max-ttl: {longest}\n\
         remote-control:\n  control-enable: no\nforward-zone:\n  name: \".\"\n  forward-addr: {upstream}\n",
        at.ip(),
        at.port(),
        folder.display(),
    );
    let file = written(folder, "unbound", at.port(), &text)?;
    let arguments = ["-d", "-c", &file];
    Ok(program("unbound", &arguments.map(String::from)))
}
