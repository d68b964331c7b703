//! What each verb of the command line does that is not the running agent: one file a verb. Parsing
//! the command line is `cli`'s.

pub mod check;
pub mod exec;
pub mod explain;
pub mod quiet;
