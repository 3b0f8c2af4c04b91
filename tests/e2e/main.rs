//! The road of the data end to end, on real mongods and a simulated Lotus.

#[cfg(test)]
mod harness_itself;
#[cfg(test)]
mod quirks;
