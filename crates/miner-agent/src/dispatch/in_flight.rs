//! The deals that a worker works on now.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bson::Bson;

/// Maximum deals under this process's leases at a time. Only a pass comes near it: its tries wait for the
/// market's word themselves.
pub(super) const IN_FLIGHT_MAX: usize = 2048;

/// Ids of the deals in flight.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight(Arc<Mutex<HashSet<String>>>);

/// One deal in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct InFlightDeal {
    all: InFlight,
    id: String,
}

impl InFlight {
    /// Whether this process works on the deal.
    pub(super) fn contains(&self, id: &Bson) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&id.to_string())
    }

    /// Counts the deal as in flight.
    pub(super) fn insert(&self, id: &Bson) -> InFlightDeal {
        let id = id.to_string();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        InFlightDeal { all: self.clone(), id }
    }
}

impl Drop for InFlightDeal {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
