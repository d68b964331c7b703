//! What an operator uses: the admin socket, the status that it serves, the questions that it asks the
//! engine, and the service manager. Decides nothing about a flow.

pub mod admin;
pub mod ask;
pub mod client;
pub mod manager;
pub mod pinned;
pub mod reporter;
pub mod request;
pub mod status;
pub mod text;
