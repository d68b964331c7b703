//! The hooks by family, and the maps between them.

pub mod backstop;
pub mod connect;
pub mod datagram;
pub mod event;
pub mod heard;
pub mod judge;
pub mod listener;
pub mod maps;
pub mod memory;
pub mod options;
pub mod origin;
pub mod owner;
pub mod sender;
pub mod server;
pub mod skb;
pub mod sock;
pub mod socket;
pub mod tables;
