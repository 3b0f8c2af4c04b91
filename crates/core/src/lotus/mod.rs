//! Lotus: where its nodes are and how they are called.

pub mod endpoint;
