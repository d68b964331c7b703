//! Asks the configured servers for the addresses of one name.
//!
//! It uses no search domains, no hosts file and no cache: names are complete, and the core decides how long
//! an answer is kept. If a server fails, it asks the next one. A negative answer is final.

use super::in_turn::ask_in_turn;
use super::name_servers::NameServers;
use super::server::Server;
use egress_core::dns::chain;
use egress_core::dns::query::Question;
use egress_core::policy::leases::{Answer, Failure};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The longest TTL of an answer without one family because its question failed, so that the name is asked again
/// soon.
const HALF_TTL: Duration = Duration::from_secs(5);

/// The servers, in order. Cheap to clone.
#[derive(Clone)]
pub struct Resolver {
    servers: Arc<[Arc<Server>]>,
    slots: Arc<Semaphore>,
}

impl Resolver {
    /// The most names that are asked for at the same time.
    pub const AT_ONCE: usize = 64;

    /// Asks `servers` in this order.
    pub fn new(servers: &NameServers) -> Self {
        Self {
            servers: servers.make().into(),
            slots: Arc::new(Semaphore::new(Self::AT_ONCE)),
        }
    }

    /// Addresses of `name` (complete, with or without the final dot), both families.
    pub async fn resolve(&self, name: &str) -> Result<Answer, Failure> {
        let name: Arc<str> = name.strip_suffix('.').unwrap_or(name).into();
        // The semaphore is never closed, so this does not fail.
        let _slot = self.slots.acquire().await;
        let ask = |kind| {
            let name = Arc::clone(&name);
            self.ask(Question { name, kind })
        };
        let (v4, v6) = tokio::join!(ask(RecordType::A), ask(RecordType::AAAA));
        combine(v4, v6)
    }

    async fn ask(&self, question: Question) -> Result<Answer, Failure> {
        let failed = |why| Failure::Failed(format!("{}: {why}", question.kind));
        let name = question.fqdn();
        let name = name.ok_or_else(|| failed("the name cannot be asked for".to_owned()))?;
        let message = ask_in_turn(&self.servers, &question).await;
        let message = message.map_err(failed)?;
        if message.metadata.response_code == ResponseCode::NXDomain {
            return Err(Failure::NoSuchName);
        }
        let found = chain::addresses(&name, &message.answers);
        found
            .map(|(addresses, ttl)| Answer { addresses, ttl })
            .ok_or(Failure::NoAddress)
    }
}

fn combine(v4: Result<Answer, Failure>, v6: Result<Answer, Failure>) -> Result<Answer, Failure> {
    use Failure::{Failed, NoAddress, NoSuchName, NotPublic};
    match (v4, v6) {
        (Ok(mut v4), Ok(v6)) => {
            v4.addresses.extend(v6.addresses);
            Ok(Answer {
                ttl: v4.ttl.min(v6.ttl),
                ..v4
            })
        }
        (Ok(half), Err(Failed(_))) | (Err(Failed(_)), Ok(half)) => Ok(Answer {
            ttl: half.ttl.min(HALF_TTL),
            ..half
        }),
        (Ok(whole), Err(_)) | (Err(_), Ok(whole)) => Ok(whole),
        (Err(Failed(why)), Err(_)) | (Err(_), Err(Failed(why))) => Err(Failed(why)),
        (Err(NoSuchName), Err(NoSuchName)) => Err(NoSuchName),
        (
            Err(NoAddress | NoSuchName | NotPublic(_)),
            Err(NoAddress | NoSuchName | NotPublic(_)),
        ) => Err(NoAddress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::unnecessary_wraps,
        reason = "stands beside failures in the table"
    )]
    fn good(ip: &str, ttl: u64) -> Result<Answer, Failure> {
        Ok(Answer {
            addresses: vec![ip.parse().unwrap()],
            ttl: Duration::from_secs(ttl),
        })
    }

    #[test]
    fn both_families_make_one_answer() {
        let both = combine(good("192.0.2.1", 60), good("2001:db8::1", 30)).unwrap();
        assert_eq!((both.addresses.len(), both.ttl.as_secs()), (2, 30));
        let failed = || Err(Failure::Failed("x".into()));
        for (v4, v6, want) in [
            (
                good("192.0.2.1", 60),
                Err(Failure::NoAddress),
                good("192.0.2.1", 60),
            ),
            (good("192.0.2.1", 60), failed(), good("192.0.2.1", 5)),
            (good("192.0.2.1", 2), failed(), good("192.0.2.1", 2)),
            (
                Err(Failure::NoSuchName),
                Err(Failure::NoSuchName),
                Err(Failure::NoSuchName),
            ),
            (
                Err(Failure::NoSuchName),
                Err(Failure::NoAddress),
                Err(Failure::NoAddress),
            ),
            (Err(Failure::NoSuchName), failed(), failed()),
            (failed(), Err(Failure::NoAddress), failed()),
        ] {
            assert_eq!(combine(v4.clone(), v6.clone()), want, "{v4:?} {v6:?}");
        }
    }
}
