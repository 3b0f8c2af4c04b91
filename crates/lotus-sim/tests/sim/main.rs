//! The simulator over real sockets, judged by the contract: no library of ours between.

mod deals;
mod faults;
mod frames;
mod imports;
mod process;
mod scale;
mod support;
mod websocket;
