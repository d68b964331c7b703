//! The time of a scrape with many names and workloads, and what scrapes cost the agent.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::bench::float;
use egress_tests::scrape::{Scrape, get};
use egress_tests::takeover;
use egress_tests::{Lab, LabOptions, wait_until};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const AT: &str = "127.0.0.1:15020";
const NAMES: usize = 10_000;
const WORKLOADS: usize = 500;
/// Edits of one object, alone and while the agent is scraped.
const EDITS: u32 = 20;
/// How long a scrape may take.
const LIMIT: Duration = Duration::from_millis(20);
/// Current values are gathered at most that often.
const FRESH: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_mins(3);

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_scrape_takes_less_than_twenty_milliseconds_with_ten_thousand_names_and_five_hundred_workloads()
{
    let at: SocketAddr = AT.parse().unwrap();
    let mut lab = Lab::start_with(LabOptions::flags(&[
        "--monitoring-address",
        AT,
        "--workload",
        "{cgroup: w*, namespace: shop}",
    ]))
    .unwrap();
    let cgroups: Vec<_> = (0..WORKLOADS)
        .map(|n| lab.workloads().child(&format!("w{n}")).unwrap())
        .collect();
    takeover::list(&lab, NAMES).unwrap();
    wait_until("all are there", LONG, || {
        let scrape = Scrape::of(lab.node(), at).ok()?;
        let names = scrape.value("egress_dns_names", &[])?;
        let waiting = scrape.value("egress_dns_names_without_address", &[])?;
        let known = scrape.value("egress_workload_cgroups", &[("identity", "known")])?;
        let all = names >= float(NAMES as u64) && (known - float(WORKLOADS as u64)).abs() < 0.5;
        (all && waiting < 0.5).then_some(())
    })
    .unwrap();

    let (mut fresh, mut kept, mut bytes) = (Vec::new(), Vec::new(), 0);
    let (begin, cpu) = (Instant::now(), lab.agent().unwrap().cpu().unwrap());
    let mut gathered = Instant::now();
    for _ in 0..11 {
        wait_until("the last values are old", LONG, || {
            (gathered.elapsed() > FRESH).then_some(())
        })
        .unwrap();
        let answer = get(lab.node(), at, "/metrics").unwrap();
        assert_eq!(answer.code, 200);
        fresh.push(answer.took);
        gathered = Instant::now();
        bytes = answer.body.len();
        kept.push(get(lab.node(), at, "/metrics").unwrap().took);
    }
    let cpu = lab.agent().unwrap().cpu().unwrap().saturating_sub(cpu);
    let (fresh, kept) = (median(fresh), median(kept));
    println!(
        "{NAMES} names, {WORKLOADS} workloads: a scrape with new values {fresh:?}, with values of the last second {kept:?}, {bytes} bytes; the agent used {cpu:?} in {:?}",
        begin.elapsed()
    );
    assert!(fresh < LIMIT, "{fresh:?}");
    assert!(kept < LIMIT, "{kept:?}");

    let alone = enforcement(&lab, at);
    let (scraped, during) = while_scraped(&lab, at, || enforcement(&lab, at));
    println!("an edit is in force after {alone:?}, during {scraped} scrapes after {during:?}");
    assert!(scraped > EDITS as usize, "{scraped} scrapes");
    assert!(
        during < alone * 3 + LIMIT,
        "{during:?} instead of {alone:?}"
    );
    drop(cgroups);
}

/// The mean time until an edit is in force, by the agent's own metric.
fn enforcement(lab: &Lab, at: SocketAddr) -> Duration {
    let measured = || {
        let scrape = Scrape::of(lab.node(), at).unwrap();
        let value = |part: &str| {
            let name = format!("egress_rules_enforcement_duration_seconds_{part}");
            scrape.value(&name, &[]).unwrap()
        };
        (value("sum"), value("count"))
    };
    let (sum, count) = measured();
    for n in 0..EDITS {
        let entry = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: edited}}\n\
             spec: {{hosts: [edited.example], addresses: [192.0.2.{n}], ports: [{{number: 443, name: tls, protocol: TLS}}], resolution: STATIC, endpoints: [{{address: 192.0.2.{n}}}]}}\n"
        );
        lab.rules("edited.yaml", &entry).unwrap();
    }
    let (after, edits) = measured();
    assert!(
        edits - count > f64::from(EDITS) - 0.5,
        "{} edits",
        edits - count
    );
    Duration::from_secs_f64((after - sum) / (edits - count))
}

/// Does `work` while another thread scrapes without a pause. Returns the number of scrapes too.
fn while_scraped<T>(lab: &Lab, at: SocketAddr, work: impl FnOnce() -> T) -> (usize, T) {
    let (over, netns) = (AtomicBool::new(false), lab.node());
    thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut scrapes = 0;
            while !over.load(Ordering::Relaxed) {
                get(netns, at, "/metrics").unwrap();
                scrapes += 1;
            }
            scrapes
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        (scraper.join().unwrap(), done)
    })
}
