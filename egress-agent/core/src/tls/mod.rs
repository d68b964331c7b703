//! TLS facts: the ClientHello and the name in it.
