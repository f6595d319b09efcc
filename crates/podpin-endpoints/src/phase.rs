//! The life of an endpoint in four phases, and the only rule by which one may follow another.
//!
//! ```text
//!            ┌────────┐  readiness lost   ┌─────────┐
//!   joins ──▶│ Ready  │ ────────────────▶ │ Resting │◀── joins
//!            │        │ ◀──────────────── │         │
//!            └───┬────┘  readiness back   └────┬────┘
//!                └──────────┬──────────────────┘
//!                           ▼  terminating, or drained by hand
//!                      ┌──────────┐   only a drain that can be undone leads back:
//!             joins ──▶│ Draining │   a state in a file, or the operator's own
//!                      └────┬─────┘
//!                           ▼  not listed any more (from every phase)
//!                        ┌──────┐
//!                        │ Gone │   the identity has ended
//!                        └──────┘
//! ```
//!
//! A terminating pod never becomes ready again, so a late "ready" about one is a stale word, and is refused.

/// Where an endpoint is in its life; the order is the order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Takes new clients.
    Ready,
    /// Not ready and not terminating: takes no new clients, keeps the pinned ones while it serves.
    Resting,
    /// Terminating or drained: takes no new clients, and those that it has are leaving.
    Draining,
    /// Not listed any more. Seen in transitions only, never in a snapshot.
    Gone,
}

impl Phase {
    /// The word for it in the admin API and in metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Ready => "ready",
            Phase::Resting => "resting",
            Phase::Draining => "draining",
            Phase::Gone => "gone",
        }
    }

    /// Whether an endpoint in this phase may go on to `next`.
    pub(crate) fn may_become(self, next: Phase, drain: Drain) -> bool {
        match (self, next) {
            (Phase::Gone, _) => false,
            (Phase::Draining, Phase::Ready | Phase::Resting) => drain == Drain::Reversible,
            (Phase::Ready | Phase::Resting | Phase::Draining, _) => true,
        }
    }
}

/// Whether there is a way back from [`Phase::Draining`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drain {
    /// A pod that terminates.
    Final,
    /// A state that a person wrote into a file and may take back.
    Reversible,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reversible_drain_leads_back_and_nothing_leads_back_from_gone() {
        use Phase::{Draining, Gone, Ready, Resting};
        let all = [Ready, Resting, Draining, Gone];
        for from in all {
            for to in all {
                let backwards = (from == Draining && to < Draining) || from == Gone;
                assert_eq!(from.may_become(to, Drain::Final), !backwards, "{from:?} -> {to:?}");
                assert_eq!(from.may_become(to, Drain::Reversible), from != Gone, "{from:?} -> {to:?}");
            }
        }
    }
}
