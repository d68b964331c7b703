//! `exec`, and the agent's move to its own cgroup, in cgroups of the test. This binary also plays the agent: with the
//! verb `exec` it becomes a command as `egress-agent exec` does, with the reaper's verb it is the reaper, and with
//! `settle` it is the agent. Needs root and cgroup v2, and fails without.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

use egress_agent::config::{Config, Settings};
use egress_agent::gate::own;
use egress_agent::gate::roots::Roots;
use egress_agent::verbs::exec;
use egress_agent::{cgroup2, failure::Failure};
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

type Test = (&'static str, fn(&Root));

const TESTS: &[Test] = &[
    (
        "the_agent_moves_out_from_above_its_enforced_root",
        agent_moves,
    ),
    (
        "the_command_runs_in_a_fresh_cgroup_that_is_gone_afterwards",
        fresh_cgroup,
    ),
    ("exit_code_and_signal_are_the_commands_own", exit_status),
    (
        "a_command_that_is_not_there_or_cannot_run_ends_as_in_a_shell",
        not_runnable,
    ),
    ("without_a_closed_gate_nothing_runs", gate_open),
    (
        "what_the_command_left_running_stays_behind_the_gate",
        left_running,
    ),
    (
        "the_command_finds_no_child_that_it_did_not_make",
        no_stranger,
    ),
    ("a_path_that_is_no_cgroup_is_bad_input", no_cgroup),
];

/// An enforced root without attached programs.
struct Root(PathBuf);

impl Root {
    fn new(n: usize) -> Self {
        let mount = cgroup2::mount_point().expect("cgroup v2");
        let folder = mount.join(format!("egress-exec-test-{}-{n}", std::process::id()));
        fs::create_dir(&folder).expect("needs root: makes a cgroup");
        Self(folder)
    }

    fn start(&self, open: bool, command: &[&str]) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .arg(if open { "exec-open" } else { "exec" })
            .arg(&self.0)
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Starts this binary inside of this cgroup, to settle as an agent that enforces a child of it.
    fn settle(&self, agent_cgroup: Option<&str>) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("settle").arg(self.0.join("enforced"));
        command.args(agent_cgroup.map(|c| self.0.join(c)));
        let procs = self.0.join("cgroup.procs");
        // SAFETY: the child is single-threaded and of this program; it opens and writes one file.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
                fs::write(&procs, "0")
            })
        };
        command.output().unwrap()
    }

    fn run(&self, command: &[&str]) -> Output {
        self.start(false, command).wait_with_output().unwrap()
    }

    fn children(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().path());
        entries.filter(|p| p.is_dir()).collect()
    }

    fn empties(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.children().is_empty() {
            assert!(Instant::now() < end, "still there: {:?}", self.children());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        drop(fs::write(self.0.join("cgroup.kill"), "1"));
        for child in self.children() {
            let end = Instant::now() + Duration::from_secs(10);
            while fs::remove_dir(&child).is_err() && child.exists() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        drop(fs::remove_dir(&self.0));
    }
}

/// Started in a cgroup above the enforced root, the agent ends in a sibling of the root.
fn agent_moves(above: &Root) {
    fs::create_dir(above.0.join("enforced")).unwrap();
    let out = above.settle(None);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(
        out.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let name = above.0.file_name().unwrap().to_str().unwrap();
    assert!(
        text.lines()
            .any(|l| l == format!("0::/{name}/egress-agent")),
        "{text}"
    );
    let out = above.settle(Some("chosen"));
    assert!(
        String::from_utf8(out.stdout)
            .unwrap()
            .contains(&format!("{name}/chosen"))
    );
    let out = above.settle(Some("enforced/inside"));
    assert_eq!(out.status.code(), Some(64), "{out:?}");
    assert!(
        !above.0.join("enforced/inside").exists(),
        "refused before anything is made"
    );
}

fn fresh_cgroup(root: &Root) {
    let out = root.run(&["cat", "/proc/self/cgroup"]);
    let text = String::from_utf8(out.stdout).unwrap();
    let own = text.lines().find_map(|l| l.strip_prefix("0::")).unwrap();
    let name = root.0.file_name().unwrap().to_str().unwrap();
    assert!(own.contains(&format!("{name}/exec-")), "{own}");
    root.empties();
}

fn exit_status(root: &Root) {
    assert_eq!(root.run(&["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(
        root.run(&["sh", "-c", "kill -TERM $$"]).status.signal(),
        Some(libc::SIGTERM)
    );
    // A signal from outside reaches the command itself.
    let mut child = root.start(
        false,
        &[
            "sh",
            "-c",
            "trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done",
        ],
    );
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: a plain kill of the child that this test started and has not waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGUSR1) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(9));
    root.empties();
}

fn not_runnable(root: &Root) {
    for (command, code) in [("/nonexistent/command", 127), ("/etc", 126)] {
        let out = root.run(&[command]);
        assert_eq!(out.status.code(), Some(code), "{out:?}");
        assert!(
            String::from_utf8_lossy(&out.stderr).contains(command),
            "{out:?}"
        );
    }
    root.empties();
}

fn gate_open(root: &Root) {
    let out = root
        .start(true, &["echo", "ran"])
        .wait_with_output()
        .unwrap();
    assert_eq!(out.status.code(), Some(64), "{out:?}");
    assert!(
        out.stdout.is_empty() && String::from_utf8_lossy(&out.stderr).contains("not attached"),
        "{out:?}"
    );
    assert!(root.children().is_empty());
}

fn left_running(root: &Root) {
    // The background process prints its pid, and has none of the test's pipes.
    let out = root.run(&["sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"]);
    let pid: libc::pid_t = String::from_utf8(out.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let children = root.children();
    let [cgroup] = children.as_slice() else {
        panic!("{children:?}")
    };
    let inside = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    assert!(inside.lines().any(|l| l == pid.to_string()), "{inside}");
    // SAFETY: a plain kill of the process that the command above started.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    root.empties();
}

fn no_stranger(root: &Root) {
    let out = root.run(&["sh", "-c", "cat /proc/$$/task/$$/children"]);
    let children = String::from_utf8(out.stdout).unwrap();
    assert_eq!(
        children.split_whitespace().count(),
        1,
        "only cat: {children:?}"
    );
    root.empties();
}

fn no_cgroup(_: &Root) {
    let plain = Root("/proc".into());
    let out = plain.run(&["true"]);
    std::mem::forget(plain);
    assert_eq!(out.status.code(), Some(64), "{out:?}");
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("cgroup v2"),
        "{out:?}"
    );
}

fn become_command(root: &Path, open: bool, command: &[OsString]) -> anyhow::Error {
    let check = |_: &Path| {
        if open {
            Err(Failure::usage("not attached").into())
        } else {
            Ok(())
        }
    };
    match exec::run(root, command, check) {
        Err(e) => e,
        Ok(never) => match never {},
    }
}

fn settle(root: &OsString, agent_cgroup: Option<&OsString>) -> ExitCode {
    let flags = Settings {
        rules: vec!["unused.yaml".into()],
        cgroups: vec![root.into()],
        agent_cgroup: agent_cgroup.map(PathBuf::from),
        ..Settings::default()
    };
    let config = Config::load(flags, None).unwrap();
    let roots = Roots::look(&config.cgroups);
    let checked = roots.wrong.map_or(Ok(roots.paths), Err);
    match checked.and_then(|roots| own::settle(&config, &roots)) {
        Ok(_) => {
            print!("{}", fs::read_to_string("/proc/self/cgroup").unwrap());
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            e.code.into()
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let verb = args.first().and_then(|a| a.to_str()).unwrap_or_default();
    match verb {
        exec::REAPER_VERB => {
            exec::reap(Path::new(&args[1])).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
        "exec" | "exec-open" => {
            let error = become_command(Path::new(&args[1]), verb == "exec-open", &args[2..]);
            eprintln!("{error:#}");
            Failure::code_of(&error).into()
        }
        "settle" => settle(&args[1], args.get(2)),
        _ => run_tests(&args),
    }
}

/// Supports the options of the usual harness that runners need: `--list`, filters, `--exact`.
fn run_tests(args: &[OsString]) -> ExitCode {
    let args: Vec<_> = args.iter().filter_map(|a| a.to_str()).collect();
    let exact = args.contains(&"--exact");
    let filters: Vec<_> = args
        .iter()
        .filter(|a| !a.starts_with('-') && **a != "terse")
        .collect();
    let chosen = TESTS.iter().enumerate().filter(|(_, (name, _))| {
        filters.is_empty()
            || filters.iter().any(|f| {
                if exact {
                    name == *f
                } else {
                    name.contains(**f)
                }
            })
    });
    if args.contains(&"--list") {
        // Nothing here is ignored.
        if !args.contains(&"--ignored") {
            chosen.for_each(|(_, (name, _))| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (n, (name, test)) in chosen {
        let passed = std::panic::catch_unwind(|| test(&Root::new(n))).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
