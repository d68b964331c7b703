//! Findings across objects.
