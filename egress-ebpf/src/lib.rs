//! The pure half of the kernel side: the types in BPF maps, the classification of addresses, and the decision
//! about a flow.
//!
//! It builds for the BPF target and for the host, so `cargo test` judges flows with the code that
//! the kernel runs. It knows no map, no helper and no policy language.
#![no_std]

pub mod abi;
pub mod addr;
pub mod decide;
pub mod digest;
pub mod heard;
pub mod ids;
pub mod layout;
#[cfg(any(test, feature = "model"))]
pub mod model;
pub mod packet;
pub mod table;
pub mod verdict;

#[cfg(any(test, feature = "model"))]
extern crate std;
