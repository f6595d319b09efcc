//! The life of an endpoint in four phases, and the only rule by which one may follow another.
//!
//! ```text
//!            ┌────────┐  readiness lost   ┌──────────┐
//!   joins ──▶│ Ready  │ ────────────────▶ │ NotReady │◀── joins
//!            │        │ ◀──────────────── │          │
//!            └───┬────┘  readiness back   └────┬─────┘
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
//! A terminating pod never becomes ready again, so a late "ready" about one is stale, and is refused.

/// The phase of an endpoint's life; the order of the variants is the order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Open to new clients.
    Ready,
    /// Neither ready nor terminating: no new clients, pinned ones as long as it serves.
    NotReady,
    /// Terminating or drained: no new clients, and the others leave.
    Draining,
    /// Not listed any more. Seen in transitions only, never in a snapshot.
    Gone,
}

impl Phase {
    /// The word for it in the admin API and in metric labels: `resting` is there since the first version, and stays.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Ready => "ready",
            Phase::NotReady => "resting",
            Phase::Draining => "draining",
            Phase::Gone => "gone",
        }
    }

    /// Whether an endpoint in this phase may go on to `next`.
    pub(crate) fn may_become(self, next: Phase, drain: Drain) -> bool {
        match (self, next) {
            (Phase::Gone, _) => false,
            (Phase::Draining, Phase::Ready | Phase::NotReady) => drain == Drain::Reversible,
            (Phase::Ready | Phase::NotReady | Phase::Draining, _) => true,
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
        use Phase::{Draining, Gone, NotReady, Ready};
        let all = [Ready, NotReady, Draining, Gone];
        for from in all {
            for to in all {
                let backwards = (from == Draining && to < Draining) || from == Gone;
                assert_eq!(from.may_become(to, Drain::Final), !backwards, "{from:?} -> {to:?}");
                assert_eq!(from.may_become(to, Drain::Reversible), from != Gone, "{from:?} -> {to:?}");
            }
        }
    }
}
