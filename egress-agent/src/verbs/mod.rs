//! What each verb of the command line does that is not the running agent, with its arguments: one
//! file a verb. Parsing the command line is `cli`'s.

pub mod args;
pub mod check;
pub mod close;
pub mod detach;
pub mod exec;
pub mod explain;
pub mod quiet;
pub mod status;
pub mod wait;
