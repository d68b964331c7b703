//! The pure half of TLS passthrough: the name in a `ClientHello`, and that a second one keeps it.

pub mod client_hello;
pub mod second_hello;
