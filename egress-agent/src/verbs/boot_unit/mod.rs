//! `egress-agent boot-unit`: copies this program and the unit that closes the gate before the kubelet to a node, and
//! enables the unit. For a container that has the node's folders mounted: it starts nothing, and systemd reads the
//! unit at the next boot.
//!
//! Owns when that is done; `node` knows the files, and `program` how one is replaced.

mod node;
mod program;

use super::args::AdminArgs;
use super::quiet;
use crate::kernel::BUILD;
use crate::operate::client;
use clap::Subcommand;
use node::Paths;
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// This program.
const OWN: &str = "/proc/self/exe";
/// Time between two looks at the agent until it has proven the gate closed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks at the installed program.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// As long as an agent may need to get a gate that it can close.
const FOREVER: Duration = Duration::from_hours(8760);

/// Arguments of `boot-unit`.
#[derive(Debug, clap::Args)]
pub struct BootUnitArgs {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Install the program and the unit, and enable the unit. Files that are the same stay untouched
    Install(Arguments),
    /// Remove what `install` made, also if it had other flags
    Remove(Arguments),
}

#[derive(Debug, clap::Args)]
struct Arguments {
    #[command(flatten)]
    paths: Paths,
    /// For a container beside the agent: wait until an agent of this build has proven the gate closed on this node, and
    /// stay afterwards. A node where that fails must not get a unit without which its kubelet does not start
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The verb.
pub fn run(args: &BootUnitArgs) -> anyhow::Result<()> {
    match &args.act {
        Act::Install(to) if to.stay => {
            let socket = to.admin.clone().socket()?;
            keep_installed(&to.paths, &socket, Path::new(OWN), |pause| {
                thread::sleep(pause);
                true
            })
        }
        Act::Install(to) => say(&node::install(&to.paths, Path::new(OWN))?),
        Act::Remove(from) => {
            if from.stay {
                client::wait(&from.admin.clone().socket()?, FOREVER, true)?;
            }
            say(&node::remove(&from.paths)?)?;
            if !from.stay {
                return Ok(());
            }
            loop {
                thread::park();
            }
        }
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(quiet::stdout(), "{line}")?)
}

/// Installs `own` once an agent of this build has proven the gate closed, and writes it again if another program is in
/// its place while such an agent serves. Ends when `pause` returns false.
///
/// Every agent of the node answers on the same socket. In a rolling update the former one may answer for days, and proves
/// nothing about the programs of this build. The container beside it runs too, and may write its own program last.
fn keep_installed(
    paths: &Paths,
    socket: &Path,
    own: &Path,
    mut pause: impl FnMut(Duration) -> bool,
) -> anyhow::Result<()> {
    let mut waits = false;
    while let Err(why) = proven(socket) {
        if !waits {
            say(&format!(
                "waiting until an agent of this build has closed the gate: {why}"
            ))?;
            waits = true;
        }
        if !pause(POLL_INTERVAL) {
            return Ok(());
        }
    }
    say(&node::install(paths, own)?)?;
    while pause(LOOK_AGAIN) {
        if proven(socket).is_ok() && node::has_other_program(paths, own)? {
            say(&node::install(paths, own)?)?;
        }
    }
    Ok(())
}

/// Whether the agent that serves is of this build and its last canary below each root passed. If not, why.
fn proven(socket: &Path) -> Result<(), String> {
    let status = client::ask(socket).map_err(|error| format!("{error:#}"))?;
    if status.build != BUILD {
        let (version, build) = (status.version, status.build);
        return Err(format!(
            "the agent that runs has version {version} (build {build:?}), and this is build {BUILD:?}"
        ));
    }
    if !status.closed {
        let not_yet = || "not proven yet".to_owned();
        return Err(status.trouble.unwrap_or_else(not_yet));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::status::Status;
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    const SOON: Duration = Duration::from_secs(10);

    /// An agent's admin socket with answers of the test's choice.
    struct Agent {
        answer: Arc<Mutex<Status>>,
        asked: Arc<AtomicUsize>,
    }

    impl Agent {
        fn at(socket: &Path) -> Self {
            let agent = Self {
                answer: Arc::default(),
                asked: Arc::default(),
            };
            let listener = UnixListener::bind(socket).unwrap();
            let (answer, asked) = (Arc::clone(&agent.answer), Arc::clone(&agent.asked));
            thread::spawn(move || {
                for client in listener.incoming() {
                    let mut client = client.unwrap();
                    client.read_to_end(&mut Vec::new()).unwrap();
                    let status = answer.lock().unwrap().clone();
                    client
                        .write_all(&serde_json::to_vec(&status).unwrap())
                        .unwrap();
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
            agent
        }

        /// Answers so from the next question on, and returns when a few have been asked.
        fn answers(&self, build: &str, closed: bool) {
            *self.answer.lock().unwrap() = Status {
                build: build.to_owned(),
                closed,
                ..Status::default()
            };
            let before = self.asked.load(Ordering::SeqCst);
            until("it is asked", || {
                self.asked.load(Ordering::SeqCst) > before + 3
            });
        }
    }

    fn until(what: &str, fits: impl Fn() -> bool) {
        let end = Instant::now() + SOON;
        while !fits() {
            assert!(Instant::now() < end, "{what}");
            thread::yield_now();
        }
    }

    #[test]
    fn only_a_program_that_an_agent_of_its_build_has_proven_is_installed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/systemd/system")).unwrap();
        fs::create_dir_all(root.path().join("opt/bin")).unwrap();
        let own: PathBuf = node::program_for_tests(root.path(), &[1]);
        let paths = Paths {
            root: root.path().to_owned(),
            directory: "/opt/bin".into(),
            before: vec!["kubelet.service".to_owned()],
        };
        let socket = root.path().join("admin.sock");
        let agent = Agent::at(&socket);
        let installed = root.path().join("opt/bin/egress-agent");
        let has = |bytes: &[u8]| fs::read(&installed).is_ok_and(|there| there == bytes);
        let program = fs::read(&own).unwrap();
        // Also ends when an assertion fails.
        let (over, end) = (AtomicBool::new(false), Instant::now() + SOON * 4);
        let pause = |_| {
            thread::sleep(Duration::from_millis(1));
            !over.load(Ordering::SeqCst) && Instant::now() < end
        };
        thread::scope(|scope| {
            let kept = scope.spawn(|| keep_installed(&paths, &socket, &own, pause));
            // The former version has no build in its answer.
            for (build, closed) in [("", true), ("0.0.9-0123", true), (BUILD, false)] {
                agent.answers(build, closed);
                assert!(!installed.exists(), "{build} {closed}");
            }
            agent.answers(BUILD, true);
            until("it is installed", || has(&program));
            fs::write(&installed, "another").unwrap();
            until("it is written again", || has(&program));
            agent.answers("0.0.9-0123", true);
            fs::write(&installed, "another").unwrap();
            agent.answers("0.0.9-0123", true);
            assert!(has(b"another"), "the other agent's program stays");
            // `boot-unit remove` of the next pod.
            fs::remove_file(&installed).unwrap();
            agent.answers(BUILD, true);
            assert!(!installed.exists());
            over.store(true, Ordering::SeqCst);
            kept.join().unwrap().unwrap();
        });
    }
}
