//! The flow of data end to end, on real mongods and a simulated Lotus.

#![expect(clippy::disallowed_methods, reason = "tests measure real time")]

#[cfg(test)]
mod boost;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod curio;
#[cfg(test)]
mod database_trouble;
#[cfg(test)]
mod dataset;
#[cfg(test)]
mod deals;
#[cfg(test)]
mod doctors;
#[cfg(test)]
mod exit_statuses;
#[cfg(test)]
mod failover;
#[cfg(test)]
mod harness_selftest;
#[cfg(test)]
mod import_trouble;
#[cfg(test)]
mod imports;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod money;
#[cfg(test)]
mod networks;
#[cfg(test)]
mod pack;
#[cfg(test)]
mod pieces;
#[cfg(test)]
mod proposals;
#[cfg(test)]
mod quirks;
#[cfg(test)]
mod restore;
#[cfg(test)]
mod security;
#[cfg(test)]
mod serve;
#[cfg(test)]
mod tracking;
