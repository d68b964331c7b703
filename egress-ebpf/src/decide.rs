//! The decision about a destination.
