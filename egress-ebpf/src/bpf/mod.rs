//! The hooks by family, and the maps that they share.

pub mod answers;
pub mod backstop;
pub mod claims;
pub mod connect;
pub mod context;
pub mod datagram;
pub mod dns;
pub mod event;
pub mod fast;
pub mod heard;
pub mod judge;
pub mod listener;
pub mod maps;
pub mod memory;
pub mod options;
pub mod origin;
pub mod owner;
pub mod probe;
pub mod sender;
pub mod server;
pub mod settle;
pub mod share;
pub mod skb;
pub mod sock;
pub mod socket;
pub mod tables;
