//! Everything that can break, broken on purpose, with real processes, a real replica set and real sockets;
//! and afterwards each deal's whole history looked at by a checker that shares nothing with the agents.
//!
//! `cargo test` runs the short form. `.ci/faults SEED` runs the long form; the same seed makes the same
//! choices.

#![expect(clippy::disallowed_methods, reason = "tests measure real time")]

#[cfg(test)]
mod answers;
#[cfg(test)]
mod backlog;
#[cfg(test)]
mod checker;
#[cfg(test)]
mod concurrent_agents;
#[cfg(test)]
mod costs;
#[cfg(test)]
mod crash_points;
#[cfg(test)]
mod deadlines;
#[cfg(test)]
mod disks;
#[cfg(test)]
mod fault_cluster;
#[cfg(test)]
mod hung_mount;
#[cfg(test)]
mod iterations;
#[cfg(test)]
mod latency;
#[cfg(test)]
mod network;
#[cfg(test)]
mod poison;
#[cfg(test)]
mod primaries;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod short_runs;
#[cfg(test)]
mod sight;
#[cfg(test)]
mod sigstop;
#[cfg(test)]
mod sizes;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod tampering;
