//! The packet parser of the egress backstop.
