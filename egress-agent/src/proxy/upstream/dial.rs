//! A TCP connection to one endpoint of a cluster, or to another one that connects sooner.
//!
//! As Envoy's "happy eyeballs" (RFC 8305): an address that does not connect within [`STAGGER`] gets company, of the
//! other address family first. Only addresses of names are raced; a listed endpoint that fails is for the caller's next
//! attempt, as in Envoy. Which addresses are slow or dead is remembered (`suspects`).

use super::workload::Workload;
use crate::proxy::client::Client;
use crate::proxy::places::Place;
use egress_core::routing::Cluster;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// Time between two addresses (Envoy's default of `connection_attempt_delay`).
const STAGGER: Duration = Duration::from_millis(300);
/// The most further addresses of one connect.
const FURTHER: usize = 5;

/// Where a connection leads.
pub(in crate::proxy) struct Way<'a> {
    pub(in crate::proxy) cluster: &'a Cluster,
    pub(in crate::proxy) workload: Option<&'a Workload>,
    pub(in crate::proxy) first: SocketAddr,
    /// All endpoints that the flow may have, in its order.
    pub(in crate::proxy) order: &'a [SocketAddr],
}

/// A connection that is being made.
struct Dialling<'a> {
    address: SocketAddr,
    place: Place,
    connecting: Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>,
}

impl Way<'_> {
    /// The addresses that are dialled besides the first.
    fn further(&self) -> Vec<SocketAddr> {
        if !self.cluster.named {
            return Vec::new();
        }
        let listed = self.order.iter().chain(&self.cluster.further);
        let mut others: Vec<_> = listed.copied().filter(|it| *it != self.first).collect();
        if let Some(workload) = self.workload {
            workload.suspects.put_last(&mut others, Instant::now());
        }
        let mut others = interleaved(self.first, &others);
        others.truncate(FURTHER);
        others
    }

    /// It did not connect, or not soon.
    pub(super) fn suspect(&self, address: SocketAddr) {
        if let Some(workload) = self.workload {
            workload.suspects.add(address, Instant::now());
        }
    }

    fn failed(&self, address: SocketAddr, error: &io::Error) {
        // A listed endpoint that refuses costs no time, and may be up at the next attempt.
        if self.cluster.named || error.kind() != io::ErrorKind::ConnectionRefused {
            self.suspect(address);
        }
    }

    /// Connects. `place` is that of the connection's descriptor.
    pub(super) async fn dial(
        &self,
        client: &Client,
        place: Place,
    ) -> io::Result<(SocketAddr, TcpStream, Place)> {
        let netns = client.origin.netns;
        let begin = |address, place| Dialling {
            address,
            place,
            connecting: client.shared.dialer.connect(netns, address),
        };
        let mut running = vec![begin(self.first, place)];
        let mut further = None;
        let mut stagger = pin!(sleep(STAGGER));
        let mut waits = true;
        loop {
            let ended = tokio::select! {
                biased;
                ended = first_of(&mut running) => Some(ended),
                () = stagger.as_mut(), if waits => None,
            };
            let mut last = None;
            match ended {
                Some((ended, Ok(stream))) => {
                    if let Some(workload) = self.workload {
                        workload.suspects.clear(ended.address);
                    }
                    return Ok((ended.address, stream, ended.place));
                }
                Some((ended, Err(error))) => {
                    self.failed(ended.address, &error);
                    // The addresses of one logical host are one endpoint. Others are for the next attempt.
                    if running.is_empty() && self.cluster.further.is_empty() {
                        return Err(error);
                    }
                    last = Some(error);
                }
                None => running.iter().for_each(|slow| self.suspect(slow.address)),
            }
            let further = further.get_or_insert_with(|| self.further().into_iter());
            let share = client.share();
            let next = further
                .next()
                .and_then(|next| Some((next, client.shared.descriptors.spare(share, 1)?)));
            waits = next.is_some();
            if let Some((address, place)) = next {
                running.push(begin(address, place));
                stagger.as_mut().reset(Instant::now() + STAGGER);
            } else if let Some(error) = last.filter(|_| running.is_empty()) {
                return Err(error);
            }
        }
    }
}

/// Waits for the first one that ends, and takes it out.
async fn first_of<'a>(running: &mut Vec<Dialling<'a>>) -> (Dialling<'a>, io::Result<TcpStream>) {
    std::future::poll_fn(|cx: &mut Context<'_>| {
        for at in 0..running.len() {
            if let Poll::Ready(ended) = running[at].connecting.as_mut().poll(cx) {
                return Poll::Ready((running.remove(at), ended));
            }
        }
        Poll::Pending
    })
    .await
}

/// These addresses with the families in turn, beginning with another one than that of `first`. The order within each
/// stays.
fn interleaved(first: SocketAddr, others: &[SocketAddr]) -> Vec<SocketAddr> {
    let (same, other): (Vec<SocketAddr>, Vec<SocketAddr>) = others
        .iter()
        .partition(|it| it.is_ipv4() == first.is_ipv4());
    let mut order = Vec::with_capacity(others.len());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    loop {
        let pair = [other.next(), same.next()];
        if pair == [None, None] {
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::interleaved;

    #[test]
    fn families_take_turns() {
        let parse = |text: &str| text.parse().expect("an address");
        let others = ["192.0.2.2:1", "192.0.2.3:1", "[2001:db8::1]:1"].map(parse);
        let order = interleaved(parse("192.0.2.1:1"), &others);
        assert_eq!(
            order,
            ["[2001:db8::1]:1", "192.0.2.2:1", "192.0.2.3:1"].map(parse)
        );
    }
}
