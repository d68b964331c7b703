//! Asks several name servers: one after another, and the next one together with one that lets the question wait.
//!
//! Owns the order. Servers are asked in the order of their list, silent ones last ([`super::silence`]), and the first usable
//! answer counts. A silent server gets a copy of a question from time to time, so that it is found when it answers again.

use super::server::Server;
use super::silence::SILENT;
use egress_core::dns::query::Question;
use hickory_resolver::proto::op::Message;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout;

/// How many times to try a list of servers.
const ROUNDS: usize = 2;

/// An answer, or why each server has none.
type Answered = Result<Message, Vec<String>>;

/// The message that answers a question, of the first of these servers that has one: records, or the word that there are
/// none. Otherwise the reasons.
pub(super) async fn ask_in_turn(
    servers: &[Arc<Server>],
    question: &Question,
) -> Result<Message, String> {
    let order = in_order(servers, question);
    let mut failures = Vec::new();
    for _ in 0..ROUNDS {
        match ask_all(&order, question).await {
            Ok(message) => return Ok(message),
            Err(why) => failures.extend(why),
        }
    }
    let mut once: Vec<String> = Vec::new();
    for failure in failures {
        if !once.contains(&failure) {
            once.push(failure);
        }
    }
    Err(once.join(", "))
}

/// Servers in the order in which they are asked.
fn in_order<'a>(servers: &'a [Arc<Server>], question: &Question) -> Vec<&'a Server> {
    let (silent, mut order): (Vec<_>, Vec<_>) = servers
        .iter()
        .partition(|server| server.silence.is_silent());
    // If all are silent, they are asked anyway.
    let others = if order.is_empty() { &[][..] } else { &silent };
    for server in others {
        if server.silence.claim(Instant::now()) {
            let (server, question) = (Arc::clone(server), question.clone());
            tokio::spawn(async move { server.ask(&question).await });
        }
    }
    order.extend(silent);
    order.into_iter().map(AsRef::as_ref).collect()
}

async fn ask_all(order: &[&Server], question: &Question) -> Answered {
    let Some((first, rest)) = order.split_first() else {
        return Err(Vec::new());
    };
    let mut asking = pin!(ask_one(first, question));
    // A server over TLS has its whole time before the question leaves in the clear.
    let company = rest
        .first()
        .is_some_and(|next| next.is_encrypted() || !first.is_encrypted());
    let asked = Instant::now();
    let answered = if company {
        timeout(SILENT, asking.as_mut()).await.ok()
    } else {
        Some(asking.as_mut().await)
    };
    match answered {
        Some(Ok(message)) => Ok(message),
        Some(Err(why)) => also(why, ask_rest(rest, question).await),
        None => {
            first.silence.unanswered(asked, Instant::now());
            either(asking, ask_rest(rest, question)).await
        }
    }
}

type Boxed<'a> = Pin<Box<dyn Send + Future<Output = Answered> + 'a>>;

/// Boxed, because it is [`ask_all`] again.
fn ask_rest<'a>(order: &'a [&'a Server], question: &'a Question) -> Boxed<'a> {
    Box::pin(ask_all(order, question))
}

async fn ask_one(server: &Server, question: &Question) -> Answered {
    let answered = server.ask(question).await;
    answered.map_err(|why| vec![format!("{}: {why}", server.address)])
}

/// The first answer of the two.
async fn either(
    mut first: Pin<&mut (impl Future<Output = Answered> + Send)>,
    mut second: Boxed<'_>,
) -> Answered {
    let (answered, first_is_over) = tokio::select! {
        answered = first.as_mut() => (answered, true),
        answered = second.as_mut() => (answered, false),
    };
    match answered {
        Ok(message) => Ok(message),
        Err(why) if first_is_over => also(why, second.await),
        Err(why) => also(why, first.await),
    }
}

/// An answer, or these failures too.
fn also(mut failures: Vec<String>, answered: Answered) -> Answered {
    answered.map_err(|more| {
        failures.extend(more);
        failures
    })
}
