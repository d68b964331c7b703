//! How the running agent is operated: the admin socket, the status that it serves there, the
//! question to the engine behind each request, and the service manager. Decides nothing about a flow.

pub mod admin;
pub mod ask;
pub mod manager;
pub mod pinned;
pub mod reporter;
pub mod status;
pub mod text;
