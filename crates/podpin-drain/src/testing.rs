//! Endpoints for unit tests.

use std::sync::Arc;

use podpin_endpoints::{Endpoint, EndpointId, Observed, Table, Update};
use podpin_time::Millis;

/// Returns a ready endpoint of this name.
pub(crate) fn endpoint(name: &str) -> Arc<Endpoint> {
    let id = EndpointId::of_pod(name, 80);
    let observed =
        Observed { uid: Some(name.into()), ..Observed::ready(id, name, ([127, 0, 0, 1], 80).into()) };
    let applied = Table::new().apply(Update::Replace(vec![observed]), Millis(0));
    Arc::clone(applied.snapshot.get(&id).unwrap())
}
