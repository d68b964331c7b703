//! The addresses of names that clients ask for, under `resolution: DYNAMIC_DNS`: a bounded cache over the agent's own
//! questions, with the times of the answers.
//!
//! It does not decide which names may be asked for: the routes do.

use crate::proxy::places::{Place, Places};
use egress_core::policy::leases::{Answer, Failure};
use egress_ebpf::ids::CgroupId;
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// An answer to come.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send + 'a>>;

/// Resolves one name. The answer has only addresses that may be dialled.
pub trait NameResolver: Send + Sync {
    /// Asks for a complete name.
    fn resolve(&self, name: &str) -> Resolving<'_>;
    /// Whether a workload may have got this address, in the form that the kernel looks up, in an answer for the name.
    fn leases(&self, name: &str, address: IpAddr) -> bool;
}

/// The most names that are remembered.
const MAX_NAMES: usize = 4096;
/// The most names that are asked for at one time, and the most for one workload.
const ASKING: (usize, usize) = (64, 16);
/// The shortest and longest time for which an answer is used.
const VALID: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// How long a failure is remembered.
const FAILED: Duration = Duration::from_secs(2);

/// See the module.
pub(in crate::proxy) struct Names {
    resolver: Option<Arc<dyn NameResolver>>,
    known: Mutex<HashMap<Arc<str>, Arc<Entry>>>,
    asking: Arc<Places>,
}

/// One question at a time for each name.
type Entry = tokio::sync::Mutex<Option<Known>>;

struct Known {
    found: Result<Arc<[IpAddr]>, Arc<str>>,
    until: Instant,
}

impl Names {
    pub(in crate::proxy) fn new(resolver: Option<Arc<dyn NameResolver>>) -> Self {
        Self {
            resolver,
            known: Mutex::default(),
            asking: Arc::new(Places::new(ASKING.0, ASKING.1)),
        }
    }

    fn entry(&self, name: &str) -> Arc<Entry> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.get(name) {
            return Arc::clone(entry);
        }
        if known.len() >= MAX_NAMES {
            let now = Instant::now();
            let is_current = |entry: &Arc<Entry>| match entry.try_lock() {
                Ok(known) => known.as_ref().is_some_and(|known| known.until > now),
                Err(_) => true,
            };
            known.retain(|_, entry| Arc::strong_count(entry) > 1 || is_current(entry));
            if known.len() >= MAX_NAMES {
                known.retain(|_, entry| Arc::strong_count(entry) > 1);
            }
        }
        Arc::clone(known.entry(name.into()).or_default())
    }

    /// Whether a workload may have got this address in an answer for the name: it is dialled although a later answer does
    /// not have it.
    pub(in crate::proxy) fn leases(&self, name: &str, address: IpAddr) -> bool {
        let resolver = self.resolver.as_ref();
        resolver.is_some_and(|resolver| resolver.leases(name, address))
    }

    /// The addresses of a name for a workload, or why there are none.
    pub(in crate::proxy) async fn of(
        &self,
        name: &str,
        share: CgroupId,
    ) -> Result<Arc<[IpAddr]>, Arc<str>> {
        let entry = self.entry(name);
        let mut known = entry.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.until > Instant::now()) {
            return known.found.clone();
        }
        let resolver = self.resolver.as_ref().ok_or("no name server is set")?;
        let place: Option<Place> = self.asking.take(share);
        let Some(_place) = place else {
            return Err("too many names of this workload are being resolved".into());
        };
        let (found, valid) = match resolver.resolve(name).await {
            Ok(answer) => (
                Ok(answer.addresses.into()),
                answer.ttl.clamp(VALID.0, VALID.1),
            ),
            Err(failure) => (Err(failure.to_string().into()), FAILED),
        };
        let until = Instant::now() + valid;
        known.insert(Known { found, until }).found.clone()
    }
}
