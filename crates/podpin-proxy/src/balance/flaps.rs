//! Endpoints whose state changes many times a second: their changes count, but the log says so once, and clients that
//! name themselves are not sent to and fro with them.

use std::time::Duration;

use podpin_endpoints::{EndpointId, IdMap, Phase, Refused, Transition};
use podpin_time::Millis;

/// Changes of one endpoint that are logged before it is said to flap: a pod that starts and one that ends make three. At ten a
/// second that is found out within a second.
const CHANGES_MAX: u32 = 6;

/// An endpoint that has not changed for so long is steady, and its next change is logged again.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// Transitions and refused updates that are logged one by one; more of them are summed up.
const LINES_MAX: usize = 20;

/// The part of a change that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logged {
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
    recent: IdMap<Recent>,
    /// When an update was refused last, by endpoint.
    refused: IdMap<Millis>,
}

#[derive(Debug)]
struct Recent {
    changes: u32,
    last: Millis,
}

/// The endpoints that flap, with the moments at which they will have been steady for long enough.
pub(crate) type Flapping = IdMap<Millis>;

impl Flaps {
    /// Logs each transition, or a sum of many: the first list of a cluster may have ten thousand.
    pub(crate) fn log_transitions(&mut self, service: &str, transitions: &[Transition], now: Millis) {
        let logged: Vec<(&Transition, Logged)> =
            transitions.iter().map(|transition| (transition, self.note(transition, now))).collect();
        if transitions.len() <= LINES_MAX {
            return logged
                .iter()
                .for_each(|(transition, logged)| log_transition(service, transition, *logged));
        }
        let count = |phase: Phase| transitions.iter().filter(|transition| transition.to == phase).count();
        tracing::info!(
            service,
            ready = count(Phase::Ready),
            resting = count(Phase::NotReady),
            draining = count(Phase::Draining),
            gone = count(Phase::Gone),
            "many endpoints changed state"
        );
    }

    /// Logs each refused update, or a sum of many. A table reports each of them once, not with every list that repeats it; two
    /// sources that contradict each other all the time are logged once, too.
    pub(crate) fn log_refused(&mut self, service: &str, refused: &[Refused], now: Millis) {
        let refused: Vec<&Refused> =
            refused.iter().filter(|one| self.note_refused(one.endpoint.id, now)).collect();
        if refused.len() > LINES_MAX {
            tracing::warn!(
                service,
                updates = refused.len(),
                "many discovery updates refused: their endpoints terminate"
            );
            return;
        }
        for one in refused {
            tracing::warn!(
                service,
                endpoint = %one.endpoint.name,
                state = one.endpoint.phase.as_str(),
                update = one.asked.as_str(),
                "discovery update refused: an endpoint that terminates takes no clients again"
            );
        }
    }

    /// Notes a change at `now`. Returns what to log of it.
    fn note(&mut self, transition: &Transition, now: Millis) -> Logged {
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
            self.refused.remove(&id);
            return Logged::Change;
        }
        match changes {
            0..CHANGES_MAX => Logged::Change,
            CHANGES_MAX => Logged::Flapping,
            _ => Logged::Nothing,
        }
    }

    /// Notes that an update was refused at `now`. Returns whether to log it: not if the one before was a moment ago.
    fn note_refused(&mut self, id: EndpointId, now: Millis) -> bool {
        let before = self.refused.insert(id, now);
        before.is_none_or(|before| now.since(before) >= STEADY_AFTER)
    }

    /// Returns the endpoints that flap at `now`.
    pub(crate) fn flapping(&self, now: Millis) -> Flapping {
        let flap = self.recent.iter().filter(|(_, recent)| recent.changes >= CHANGES_MAX);
        let until = flap.map(|(id, recent)| (*id, recent.last.after(STEADY_AFTER)));
        until.filter(|(_, until)| now < *until).collect()
    }
}

fn log_transition(service: &str, transition: &Transition, logged: Logged) {
    let endpoint = &transition.endpoint;
    match logged {
        Logged::Change => {}
        Logged::Flapping => {
            tracing::warn!(service, endpoint = %endpoint.name, "endpoint flaps: its next changes are not logged");
        }
        Logged::Nothing => return,
    }
    tracing::info!(
        service,
        endpoint = %endpoint.name,
        address = %endpoint.address,
        from = transition.from.map_or("new", Phase::as_str),
        to = transition.to.as_str(),
        "endpoint changed state"
    );
}

#[cfg(test)]
mod tests {
    use podpin_endpoints::{Condition, Observed, Table, Update};

    use super::*;

    fn change(table: &mut Table, condition: Option<Condition>, now: Millis) -> Transition {
        let observed = |condition| Observed {
            condition,
            reversible_drain: true,
            ..Observed::ready(EndpointId::of_pod("u", 80), "pod", ([127, 0, 0, 1], 80).into())
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
        let id = EndpointId::of_pod("u", 80);
        assert_eq!(flaps.flapping(Millis(19_899)).get(&id), Some(&Millis(19_900)));
        assert_eq!(flaps.flapping(Millis(19_900)).len(), 0);
        assert_eq!(step(&mut flaps, 19_899), Logged::Nothing);
        assert_eq!(step(&mut flaps, 29_899), Logged::Change, "steady for ten seconds");
        assert_eq!(flaps.flapping(Millis(29_899)).len(), 0);
        let gone = change(&mut table, None, Millis(30_000));
        assert_eq!((flaps.note(&gone, Millis(30_000)), flaps.recent.len()), (Logged::Change, 0));
    }
    #[test]
    fn a_change_or_two_are_no_flapping() {
        let (mut table, mut flaps) = (Table::new(), Flaps::default());
        for (number, condition) in
            [Condition::Ready, Condition::NotReady { serving: false }, Condition::Ready]
                .into_iter()
                .enumerate()
        {
            let now = Millis(number as u64 * 100);
            flaps.note(&change(&mut table, Some(condition), now), now);
        }
        assert_eq!(flaps.flapping(Millis(200)).len(), 0);
    }

    #[test]
    fn refused_updates_of_one_endpoint_are_logged_once_until_they_cease() {
        let mut flaps = Flaps::default();
        let [one, other] = ["u", "v"].map(|uid| EndpointId::of_pod(uid, 80));
        let logged = (0..75).filter(|number| flaps.note_refused(one, Millis(number * 200))).count();
        assert_eq!((logged, flaps.note_refused(other, Millis(15_000))), (1, true));
        assert!(flaps.note_refused(one, Millis(74 * 200 + 10_000)));
    }
}
