//! DNS messages, as far as the agent reads them itself: whether a datagram answers a question.

pub mod question;
