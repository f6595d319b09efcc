//! Endpoints whose state changes many times a second: their changes count, but the log says so once.

use std::collections::HashMap;
use std::time::Duration;

use podpin_endpoints::{EndpointId, Phase, Transition};
use podpin_time::Millis;

/// Changes of one endpoint that are logged before it is said to flap: a pod that starts and one that ends make three.
const CHANGES_MAX: u32 = 6;

/// An endpoint that has not changed for so long is steady, and its next change is logged again.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// The part of a change that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logged {
    /// The change itself.
    Change,
    /// The change, and that further ones are left out.
    Flapping,
    /// Nothing.
    Nothing,
}

/// The recent changes of endpoints.
#[derive(Debug, Default)]
pub(crate) struct Flaps {
    recent: HashMap<EndpointId, Recent>,
}

#[derive(Debug)]
struct Recent {
    changes: u32,
    last: Millis,
}

impl Flaps {
    /// Notes a change at `now`. Returns what to log of it.
    pub(crate) fn note(&mut self, transition: &Transition, now: Millis) -> Logged {
        let id = transition.endpoint.id;
        let recent = self.recent.entry(id).or_insert(Recent { changes: 0, last: now });
        if now.since(recent.last) >= STEADY_AFTER {
            recent.changes = 0;
        }
        recent.changes = recent.changes.saturating_add(1);
        recent.last = now;
        let changes = recent.changes;
        if transition.to == Phase::Gone {
            // The end is always worth a line, and keeps the table as small as the service.
            self.recent.remove(&id);
            return Logged::Change;
        }
        match changes {
            0..CHANGES_MAX => Logged::Change,
            CHANGES_MAX => Logged::Flapping,
            _ => Logged::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use podpin_endpoints::{Condition, Observed, Table, Update};

    use super::*;

    fn change(table: &mut Table, condition: Option<Condition>, now: Millis) -> Transition {
        let observed = |condition| Observed {
            id: EndpointId::of_pod("u", 80),
            name: "pod".into(),
            uid: None,
            address: ([127, 0, 0, 1], 80).into(),
            zone: None,
            zone_hints: None,
            node: None,
            weight: 1,
            condition,
            reversible_drain: true,
            deadline: None,
        };
        let list = condition.map(observed).into_iter().collect();
        table.apply(Update::Replace(list), now).transitions.remove(0)
    }

    #[test]
    fn an_endpoint_that_flaps_is_logged_until_that_is_clear_and_again_when_it_was_steady() {
        let (mut table, mut flaps) = (Table::new(), Flaps::default());
        let mut ready = false;
        let mut step = |flaps: &mut Flaps, at: u64| {
            ready = !ready;
            let condition = if ready { Condition::Ready } else { Condition::NotReady { serving: false } };
            flaps.note(&change(&mut table, Some(condition), Millis(at)), Millis(at))
        };
        let said: Vec<Logged> = (0..100).map(|number| step(&mut flaps, number * 100)).collect();
        assert!(said[..5].iter().all(|logged| *logged == Logged::Change));
        assert_eq!(said[5], Logged::Flapping);
        assert!(said[6..].iter().all(|logged| *logged == Logged::Nothing));
        assert_eq!(step(&mut flaps, 19_899), Logged::Nothing);
        assert_eq!(step(&mut flaps, 29_899), Logged::Change, "steady for ten seconds");
        let gone = change(&mut table, None, Millis(30_000));
        assert_eq!((flaps.note(&gone, Millis(30_000)), flaps.recent.len()), (Logged::Change, 0));
    }
}
