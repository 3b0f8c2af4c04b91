//! Temp.
pub mod backoff { 
//! Temp.
use std::time::Duration;
/// T.
#[derive(Debug)]
pub struct Backoff;
impl Backoff { 
/// T.
pub fn new(_a: Duration, _b: Duration) -> Self { Self }
/// T.
pub fn reset(&mut self) {}
/// T.
pub fn next_delay(&mut self) -> Duration { Duration::from_secs(1) } } }
