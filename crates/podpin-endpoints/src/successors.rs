//! Endpoints that may inherit, in the order in which they do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::id::{EndpointId, IdMap};
use crate::leaver::{Leaver, Stage, Standing};

/// The successors among which heirs are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Successors that inherited nothing.
    Fresh,
    /// All successors, except for leavers that are promised one of their own.
    Any,
}

/// A place in the order of successors: the first one inherits. Age is no part of the order, because two replicas may hear of
/// two endpoints in one update or in two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    received: u32,
    id: EndpointId,
    joined: u64,
}

/// The ready endpoints of one moment, in the order in which they inherit.
#[derive(Default)]
pub(crate) struct Successors {
    by_generation: BTreeMap<Arc<str>, BTreeSet<Place>>,
    /// Endpoints without a generation, as far as a leaver has their name.
    by_name: HashMap<Arc<str>, BTreeSet<Place>>,
}

impl Successors {
    /// Returns the successors among the `ready` ones, by the standing of `members`; of those without a generation, only the
    /// namesakes of `open` leavers.
    pub(crate) fn new<'a>(
        open: impl Iterator<Item = &'a Leaver>,
        members: &IdMap<Standing>,
        ready: &[Arc<Endpoint>],
    ) -> Successors {
        let unnamed = open.filter(|leaver| leaver.generation.is_none());
        let mut successors = Successors {
            by_generation: BTreeMap::new(),
            by_name: unnamed.map(|leaver| (Arc::clone(&leaver.name), BTreeSet::new())).collect(),
        };
        for endpoint in ready {
            let standing = members.get(&endpoint.id).copied().unwrap_or_default();
            let (id, joined) = (endpoint.id, standing.joined);
            let place = Place { received: standing.received, id, joined };
            let kin = match &endpoint.generation {
                Some(generation) => Some(successors.by_generation.entry(Arc::clone(generation)).or_default()),
                None => successors.by_name.get_mut(&endpoint.name),
            };
            if let Some(kin) = kin {
                kin.insert(place);
            }
        }
        successors
    }

    /// Returns the heir of a leaver, which has one inheritance more afterwards; `None` if there is no successor.
    pub(crate) fn take_first(&mut self, leaver: &Leaver, choice: Choice) -> Option<EndpointId> {
        let awaits = match leaver.stage {
            _ if choice == Choice::Fresh => true,
            Stage::Draining => leaver.is_promised,
            Stage::Orphaned(_) => true,
            Stage::Gone(_) | Stage::Settled(_) => false,
        };
        let fits = |place: &&Place| place.joined > leaver.joined && (!awaits || place.received == 0);
        let first = |kin: &BTreeSet<Place>| kin.iter().find(fits).copied();
        let (place, kin) = match &leaver.generation {
            Some(own) => {
                let others = self.by_generation.iter_mut().filter(|(generation, _)| *generation != own);
                others.filter_map(|(_, kin)| Some((first(kin)?, kin))).min_by_key(|(place, _)| *place)?
            }
            None => {
                let kin = self.by_name.get_mut(&leaver.name)?;
                (first(kin)?, kin)
            }
        };
        kin.remove(&place);
        kin.insert(Place { received: place.received.saturating_add(1), ..place });
        Some(place.id)
    }
}
