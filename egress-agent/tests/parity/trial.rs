//! Runs of cases: the origins and proxies of each, and what both sides did.

use crate::case::Case;
use crate::client::{self, Got};
use crate::envoy::{self, Site};
use crate::gate;
use crate::http2;
use crate::log_line::Lines;
use crate::origin::{Origin, Record, Seen};
use crate::support::Bed;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A case that takes longer is named, because the suite should stay quick.
const SLOW: Duration = Duration::from_secs(3);

/// The origins of one side of a case.
pub struct Side {
    record: Record,
    origins: BTreeMap<String, Vec<Origin>>,
}

impl Side {
    async fn new(case: &Case) -> Self {
        let record = Record::default();
        let mut origins = BTreeMap::new();
        for (name, endpoints) in &case.origins {
            let mut all = Vec::new();
            for (number, endpoint) in endpoints.iter().enumerate() {
                all.push(Origin::new(&format!("{name}.{number}"), endpoint, &record).await);
            }
            origins.insert(name.clone(), all);
        }
        Self { record, origins }
    }

    fn addresses(&self) -> BTreeMap<String, Vec<SocketAddr>> {
        self.origins
            .iter()
            .map(|(name, all)| (name.clone(), all.iter().map(|one| one.address).collect()))
            .collect()
    }

    pub fn names(&self) -> Vec<(SocketAddr, String)> {
        self.origins
            .iter()
            .flat_map(|(name, all)| {
                let words = all.iter().enumerate();
                words.map(move |(number, one)| (one.address, format!("<{name}.{number}>")))
            })
            .collect()
    }
}

/// A case with everything that it runs on.
pub struct Prepared {
    pub case: Case,
    pub envoy: Side,
    pub gate: Side,
    bed: Bed,
    listener: SocketAddr,
}

/// What both sides did.
pub struct Done {
    pub envoy: (Got, Vec<Seen>),
    pub gate: (Got, Vec<Seen>),
    /// Of the gate's access log, once all cases have run.
    pub lines: Vec<Lines>,
}

impl Prepared {
    pub fn site(&self) -> Site<'_> {
        Site {
            case: &self.case,
            origins: self.envoy.addresses(),
            listener: self.listener,
        }
    }
}

/// Everything that the cases run on, and what is wrong about the rules of others.
pub async fn prepare(cases: Vec<Case>) -> (Vec<Arc<Prepared>>, Vec<String>) {
    let listeners = envoy::listeners(cases.len());
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    for (case, listener) in cases.into_iter().zip(listeners) {
        let (envoy, gate) = (Side::new(&case).await, Side::new(&case).await);
        match gate::start(&case, &gate.addresses()).await {
            Err(error) => wrong.push(error),
            Ok(bed) => all.push(Arc::new(Prepared {
                case,
                envoy,
                gate,
                bed,
                listener,
            })),
        }
    }
    (all, wrong)
}

/// Runs the cases, so many at once.
pub async fn run_all(prepared: &[Arc<Prepared>], at_once: usize) -> Vec<Done> {
    let places = Arc::new(Semaphore::new(at_once));
    let mut running = Vec::new();
    for one in prepared {
        let (one, places) = (Arc::clone(one), Arc::clone(&places));
        running.push(tokio::spawn(async move {
            let _place = places.acquire().await.unwrap();
            run(&one).await
        }));
    }
    let mut done = Vec::new();
    for one in running {
        done.push(one.await.unwrap());
    }
    // Envoy writes its access log every 50 ms, and the end of a websocket takes the gate a moment.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for (one, done) in prepared.iter().zip(&mut done) {
        done.lines = lines_of(&one.bed).await;
    }
    done
}

async fn run(one: &Prepared) -> Done {
    let case = &one.case;
    let began = Instant::now();
    let (envoy, gate) = tokio::join!(
        ask(case, one.listener, &one.envoy),
        ask(case, one.bed.proxy, &one.gate)
    );
    // Mirrors and other ends of a request may come after the response.
    tokio::time::sleep(Duration::from_millis(case.settle)).await;
    if began.elapsed() > SLOW {
        println!("{} took {:?}", case.name, began.elapsed());
    }
    Done {
        envoy: (envoy, one.envoy.record.all()),
        gate: (gate, one.gate.record.all()),
        lines: Vec::new(),
    }
}

async fn ask(case: &Case, proxy: SocketAddr, side: &Side) -> Got {
    if case.http2 {
        http2::run(case, proxy).await
    } else {
        client::run(case, proxy, &side.record).await
    }
}

async fn lines_of(bed: &Bed) -> Vec<Lines> {
    let dialled = gate::DIALLED.parse().unwrap();
    let dialled = SocketAddr::new(dialled, 80);
    let mut records = bed.records.lock().await;
    std::iter::from_fn(|| records.try_recv().ok())
        .map(|one| Lines::of(&one, dialled))
        .collect()
}
