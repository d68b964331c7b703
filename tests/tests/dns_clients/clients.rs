//! The clients: what runs, how many rounds, and what it fetches.

use egress_tests::{Background, Lab, wait_until};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Rounds of a client that is one process, and of one that starts a process for each round.
const MANY: usize = 90;
const SOME: usize = 27;

/// One client.
pub struct Client {
    /// Its name, and what its program knows it by.
    pub word: &'static str,
    program: OsString,
    first: Vec<OsString>,
    environment: Vec<(&'static str, &'static str)>,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether it connects to each address of an answer, and not only to the first one.
    pub each: bool,
    pub rounds: usize,
}

/// The programs that are compiled.
pub struct Built {
    dir: TempDir,
}

/// A running systemd-resolved, a workload as the clients are.
pub struct Resolved {
    _process: Background,
    dir: TempDir,
}

impl Resolved {
    pub fn start(lab: &Lab) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let link = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../systemd-resolved");
        let packages = fs::read_link(link).expect("no systemd-resolved: run cargo xtask test");
        let mut command = lab.command("sh").unwrap();
        command
            .arg(script("resolved.sh"))
            .arg(packages)
            .arg(dir.path());
        let started = Self {
            _process: Background::start(command).unwrap(),
            dir,
        };
        let socket = started.folder().join("io.systemd.Resolve");
        wait_until("systemd-resolved listens", Duration::from_secs(10), || {
            socket.exists().then_some(())
        })
        .unwrap();
        started
    }

    /// The folder of its Unix socket.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("resolve")
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
}

impl Built {
    pub fn new() -> Self {
        let built = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (compiler, flags, name) in [
            ("musl-gcc", &["-static"][..], "musl"),
            ("gcc", &[], "glibc"),
        ] {
            let mut compile = Command::new(compiler);
            compile
                .args(["-O1", "-Wall", "-Werror", "-o"])
                .arg(built.path(name));
            done(compile.args(flags).arg(script("rounds.c")));
        }
        let mut compile = Command::new("go");
        // A folder that later runs find again.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
        compile
            .args(["build", "-o"])
            .arg(built.path("go"))
            .arg(script("rounds.go"));
        done(compile.env("GOFLAGS", "-mod=mod").env("GOCACHE", cache));
        done(
            Command::new("javac")
                .arg("-d")
                .arg(built.dir.path())
                .arg(script("Rounds.java")),
        );
        built
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// All clients.
pub fn clients(built: &Built) -> Vec<Client> {
    let client = |word, program: &OsStr, first: &[&OsStr]| Client {
        word,
        program: program.to_owned(),
        first: first.iter().map(|&one| one.to_owned()).collect(),
        environment: Vec::new(),
        tls: true,
        each: false,
        rounds: MANY,
    };
    let python = script("rounds.py");
    let python = |word| client(word, OsStr::new("python3"), &[python.as_os_str()]);
    // Each round starts a process.
    let started = |word| Client {
        rounds: SOME,
        ..python(word)
    };
    // A resolver alone, after which rounds.py connects.
    let resolver = |word| Client {
        tls: false,
        each: true,
        ..started(word)
    };
    let node = script("rounds.mjs");
    let node = |word| client(word, OsStr::new("node"), &[node.as_os_str()]);
    let c = |word| Client {
        tls: false,
        ..client(word, built.path(word).as_os_str(), &[])
    };
    let go = |word, resolver| Client {
        environment: vec![("GODEBUG", resolver)],
        ..client(word, built.path("go").as_os_str(), &[])
    };
    let java = [
        OsStr::new("-XX:TieredStopAtLevel=1"),
        OsStr::new("-cp"),
        built.dir.path().as_os_str(),
        OsStr::new("Rounds"),
    ];
    vec![
        python("python"),
        node("lookup"),
        node("cares"),
        client("java", OsStr::new("java"), &java),
        go("go", "netdns=go"),
        go("cgo", "netdns=cgo"),
        c("glibc"),
        c("musl"),
        started("curl"),
        Client {
            tls: false,
            ..started("wget")
        },
        resolver("dig"),
        resolver("dig_tcp"),
        resolver("getent"),
        resolver("nslookup"),
        resolver("resolved"),
    ]
}

impl Client {
    /// The command with these rounds and URLs.
    pub fn command(&self, lab: &Lab, rounds: usize, urls: &[String]) -> Command {
        let mut command = lab.command(&self.program.to_string_lossy()).unwrap();
        let authority = lab.authority().path();
        command
            .args(&self.first)
            .arg(self.word)
            .arg(rounds.to_string())
            .arg(authority)
            .args(urls);
        command.envs(self.environment.iter().copied());
        command
    }
}
