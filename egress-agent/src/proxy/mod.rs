//! The proxy: accepts redirected flows, reads the name that each one asks for, and forwards, answers or closes it
//! as the current `RouteTable` says.
//!
//! It owns accepted connections and their upstream connections. It creates no listening socket, reads no BPF map
//! and builds no routes: those come in through [`Shared`].

mod accept;
mod ahead;
mod client;
mod copy_body;
mod copy_room;
mod drain;
mod field_room;
mod frame_watch;
mod guard;
mod http;
mod http2_memory;
mod inspect;
mod limits;
mod loan;
mod message_body;
mod observe;
mod onward;
mod origin;
mod overflow;
mod places;
mod random;
mod relay;
mod shared;
mod short_write;
mod stream;
mod stream_send;
mod tcp;
mod ticket;
mod tls;
mod upstream;
mod watched;

pub use accept::serve;
pub use drain::{Drain, DrainSignal, drain_channel};
pub use limits::Limits;
pub use observe::{AccessRecord, CopyEnd, Denial, DenialReason, Observer, Protocol};
pub use origin::{Origin, OriginLookup};
pub use shared::{BoxFuture, Dialer, DnsStreams, ProxyUse, Shared};
pub use upstream::names::NameResolver;
pub use upstream::tls::secrets::check as check_secret;
