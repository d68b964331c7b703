//! New pods and new rules while a workload dials unlisted destinations: the time until each pod is governed and each
//! rule is in force.

use super::RATE;
use super::fleet::Fleet;
use anyhow::{Context as _, Result, bail};
use egress_tests::child::Guarded;
use egress_tests::prober::{Dialer, now};
use egress_tests::{load, pinned};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A pod is made this often. Rules change at another rate, so that the distance between both varies.
const PODS: Duration = Duration::from_millis(137);
/// Longer than anything should take.
const LIMIT: Duration = Duration::from_mins(1);
/// Time between two rules.
const BETWEEN: Duration = Duration::from_millis(300);

pub fn bench(fleet: &Fleet, changes: usize) -> Result<()> {
    let seconds = LIMIT.as_secs().to_string();
    let flood = ["flood", "--rate", RATE, "--seconds", &seconds, "--spread"];
    let mut command = load::command(&fleet.workload(0), &[&flood[..], &["--stream"]].concat())?;
    let _flood = Guarded::spawn(command.stdout(std::process::Stdio::null()))?;
    let done = AtomicBool::new(false);
    let (rules, pods) = thread::scope(|scope| {
        let pods = scope.spawn(|| pods(fleet, &done));
        let rules = rules(fleet, changes);
        done.store(true, Ordering::Relaxed);
        let pods = pods
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"));
        (rules, pods)
    });
    println!(
        "with {RATE} unlisted destinations a second: {}",
        shown("a pod governed", pods??)
    );
    println!(
        "with {RATE} unlisted destinations a second: {}",
        shown("a rule in force", rules?)
    );
    Ok(())
}

fn shown(what: &str, mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: usize| {
        times
            .get(times.len() * part / 100)
            .copied()
            .unwrap_or_default()
    };
    let longest = times.last().copied().unwrap_or_default();
    format!(
        "{what} after {:.1?} (median), {:.1?} (90 of 100), {longest:.1?} (longest of {})",
        at(50),
        at(90),
        times.len()
    )
}

/// Makes pods of namespaces with a policy, one after the other, until `done` is set.
fn pods(fleet: &Fleet, done: &AtomicBool) -> Result<Vec<Duration>> {
    let bpf = fleet.lab.bpf_dir();
    let mut times = Vec::new();
    for n in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("ns{}-new{n}", n % fleet.size.policies);
        let folder = fleet.lab.workloads().path().join(name);
        fs::create_dir(&folder)?;
        let begin = Instant::now();
        // By its id: the agent's canaries are owners for a moment too.
        let id = fs::metadata(&folder)?.ino();
        while !pinned::has_owner(bpf, id)? {
            if begin.elapsed() > LIMIT {
                bail!("a pod was not governed");
            }
        }
        times.push(begin.elapsed());
        fs::remove_dir(&folder)?;
        while pinned::has_owner(bpf, id)? {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(PODS);
    }
    Ok(times)
}

/// Adds rules that each list one more address for all workloads. Returns the times from the file being in place to the
/// first allowed connect.
fn rules(fleet: &Fleet, changes: usize) -> Result<Vec<Duration>> {
    let mut dialer = Dialer::start(&fleet.workload(1))?;
    let mut times = Vec::new();
    for n in 0..changes {
        let ip = IpAddr::from([198, 51, 100, 200 + u8::try_from(n % 50)?]);
        let port = 7000 + u16::try_from(n)?;
        dialer.until_allowed(SocketAddr::new(ip, port), 1)?;
        thread::sleep(BETWEEN);
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: more, namespace: all}}\n\
             spec:\n  hosts: [more.example]\n  resolution: STATIC\n  \
             ports: [{{number: {port}, name: tcp, protocol: TCP}}]\n  endpoints: [{{address: {ip}}}]\n"
        );
        let begin = now();
        fleet.lab.write_rules("more.yaml", &text)?;
        let at = dialer.at(LIMIT).context("the rule never came into force")?;
        times.push(at.saturating_sub(begin));
    }
    Ok(times)
}
