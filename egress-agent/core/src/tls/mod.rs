//! The pure half of TLS passthrough: the name in a `ClientHello`, and nothing behind it.

pub mod client_hello;
