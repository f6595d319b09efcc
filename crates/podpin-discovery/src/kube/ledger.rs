//! The slices of one namespace, as the API server told them last; pure.
//!
//! Everything is told per Service and as a full list: what a table makes of a list that says nothing new costs little,
//! and a full list can never be wrong about what went missing. The one thing that a list is not believed at once is
//! that a Service with endpoints has none any more: an API server that has lost its memory says the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use podpin_endpoints::Update;

use crate::kube::{KubeEvent, KubeService};
use crate::slice::{PortRef, Slice, merge};

/// The label by which a slice belongs to a Service.
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What is known of one namespace.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    services: Vec<Followed>,
    by_name: HashMap<String, usize>,
    /// Which service each slice belongs to; an index into `services`.
    places: HashMap<Arc<str>, usize>,
}

/// One Service, and everyone who wants a port of it.
#[derive(Debug)]
struct Followed {
    followers: Vec<Follower>,
    slices: BTreeMap<Arc<str>, Pages>,
    belief: Belief,
}

/// One object as each of the followers needs it, in their order.
type Pages = Vec<Slice>;

#[derive(Debug)]
struct Follower {
    /// The number by which events call it.
    number: usize,
    port: PortRef,
    /// Whether the last list that was told had an endpoint in it.
    occupied: bool,
}

/// Whether the list that was heard last was believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Belief {
    Sure,
    /// It would empty the Service, and one list alone is not enough for that.
    InDoubt,
}

/// A list that is being read, item by item and page by page.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    slices: Vec<(usize, Arc<str>, Pages)>,
    unreadable: Vec<Arc<str>>,
    nameless: bool,
}

/// A slice without a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Nameless;

impl Ledger {
    /// Follows these services, each with the number by which events call it.
    pub(crate) fn new<'s>(services: impl Iterator<Item = (usize, &'s KubeService)>) -> Ledger {
        let mut ledger = Ledger::default();
        for (number, wanted) in services {
            let next = ledger.services.len();
            let index = *ledger.by_name.entry(wanted.service.clone()).or_insert(next);
            if index == next {
                let (followers, slices) = (Vec::new(), BTreeMap::new());
                ledger.services.push(Followed { followers, slices, belief: Belief::Sure });
            }
            if let Some(followed) = ledger.services.get_mut(index) {
                let port = wanted.port.clone();
                followed.followers.push(Follower { number, port, occupied: false });
            }
        }
        ledger
    }

    /// The names of the Services, each once, sorted.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The numbers of all followers.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> {
        self.services.iter().flat_map(|followed| &followed.followers).map(|follower| follower.number)
    }

    /// The numbers of those who follow the Service `name`; of all, when it is not known whose the news are.
    pub(crate) fn concerned(&self, name: Option<&str>) -> Vec<usize> {
        match name {
            Some(name) => {
                let followed = self.by_name.get(name).and_then(|index| self.services.get(*index));
                followed.into_iter().flat_map(|one| &one.followers).map(|one| one.number).collect()
            }
            None => self.numbers().collect(),
        }
    }

    /// A slice was added or changed; `on` is told the lists that follow.
    ///
    /// # Errors
    /// [`Nameless`]: nothing was changed.
    pub(crate) fn put(
        &mut self,
        slice: &EndpointSlice,
        on: &mut dyn FnMut(KubeEvent),
    ) -> Result<(), Nameless> {
        let name = name_of(slice)?;
        let index = self.index_of(slice);
        if self.places.get(name) != index.as_ref() {
            self.remove(name, on);
        }
        let Some(index) = index else { return Ok(()) };
        let Some(followed) = self.services.get_mut(index) else { return Ok(()) };
        let pages = followed.read(slice, on);
        let name: Arc<str> = name.into();
        self.places.insert(Arc::clone(&name), index);
        followed.slices.insert(name, pages);
        followed.tell(on);
        Ok(())
    }

    /// A slice was deleted.
    pub(crate) fn remove(&mut self, name: &str, on: &mut dyn FnMut(KubeEvent)) {
        let Some(index) = self.places.remove(name) else { return };
        let Some(followed) = self.services.get_mut(index) else { return };
        followed.slices.remove(name);
        followed.tell(on);
    }

    /// Adds an item of a list.
    ///
    /// # Errors
    /// [`Nameless`]: it was not added.
    pub(crate) fn draft(
        &self,
        draft: &mut Draft,
        slice: &EndpointSlice,
        on: &mut dyn FnMut(KubeEvent),
    ) -> Result<(), Nameless> {
        let name = name_of(slice)?;
        let Some(index) = self.index_of(slice) else { return Ok(()) };
        let Some(followed) = self.services.get(index) else { return Ok(()) };
        draft.slices.push((index, name.into(), followed.read(slice, on)));
        Ok(())
    }

    /// Takes the whole list over. Returns whether all of it was believed; if not, another list should be asked for soon.
    pub(crate) fn replace(&mut self, draft: Draft, on: &mut dyn FnMut(KubeEvent)) -> bool {
        let mut lists: Vec<BTreeMap<Arc<str>, Pages>> =
            self.services.iter().map(|_| BTreeMap::new()).collect();
        for (index, name, pages) in draft.slices {
            if let Some(list) = lists.get_mut(index) {
                list.insert(name, pages);
            }
        }
        for (followed, list) in self.services.iter_mut().zip(&mut lists) {
            followed.carry_over(list, |name| draft.nameless || draft.unreadable.contains(name));
        }
        let mut believed = true;
        for (followed, list) in self.services.iter_mut().zip(lists) {
            believed &= followed.replace(list, on);
        }
        self.places = self.services.iter().enumerate().flat_map(|(index, one)| one.places(index)).collect();
        believed
    }

    /// The Service that a slice belongs to.
    pub(crate) fn service_of(slice: &EndpointSlice) -> Option<&str> {
        slice.metadata.labels.as_ref()?.get(SERVICE_LABEL).map(String::as_str)
    }

    fn index_of(&self, slice: &EndpointSlice) -> Option<usize> {
        self.by_name.get(Ledger::service_of(slice)?).copied()
    }
}

impl Draft {
    /// Whether an item could not be read.
    pub(crate) fn has_unreadable(&self) -> bool {
        self.nameless || !self.unreadable.is_empty()
    }

    /// There was an item that cannot be read; what was known under its name stays. Without a name everything that the
    /// list does not name might be it, and stays.
    pub(crate) fn unreadable(&mut self, name: Option<&str>) {
        match name {
            Some(name) => self.unreadable.push(name.into()),
            None => self.nameless = true,
        }
    }
}

impl Followed {
    fn read(&self, slice: &EndpointSlice, on: &mut dyn FnMut(KubeEvent)) -> Pages {
        let page = |follower: &Follower| {
            let page = Slice::read(slice, &follower.port);
            if page.malformed > 0 {
                on(KubeEvent::Malformed { service: follower.number });
            }
            page
        };
        self.followers.iter().map(page).collect()
    }

    fn tell(&mut self, on: &mut dyn FnMut(KubeEvent)) {
        for (page, follower) in self.followers.iter_mut().enumerate() {
            let observed = merge(self.slices.values().filter_map(|pages| pages.get(page)));
            follower.occupied = !observed.is_empty();
            on(KubeEvent::Endpoints { service: follower.number, update: Update::Replace(observed) });
        }
    }

    /// Moves the slices that must not go missing into `list`.
    fn carry_over(&mut self, list: &mut BTreeMap<Arc<str>, Pages>, keeps: impl Fn(&Arc<str>) -> bool) {
        let missing = |name: &Arc<str>| keeps(name) && !list.contains_key(name);
        let kept: Vec<Arc<str>> = self.slices.keys().filter(|name| missing(name)).cloned().collect();
        for name in kept {
            if let Some(pages) = self.slices.remove(&name) {
                list.insert(name, pages);
            }
        }
    }

    /// Returns whether the list was believed.
    fn replace(&mut self, list: BTreeMap<Arc<str>, Pages>, on: &mut dyn FnMut(KubeEvent)) -> bool {
        let emptied = |(page, follower): (usize, &Follower)| {
            let endpoints = || list.values().filter_map(|pages| pages.get(page)).all(Slice::is_empty);
            follower.occupied && endpoints()
        };
        if self.belief == Belief::Sure && self.followers.iter().enumerate().any(emptied) {
            self.belief = Belief::InDoubt;
            // What is new is taken; what is known stays.
            for (name, pages) in list {
                self.slices.entry(name).or_insert(pages);
            }
        } else {
            self.belief = Belief::Sure;
            self.slices = list;
        }
        self.tell(on);
        self.belief == Belief::Sure
    }

    fn places(&self, index: usize) -> impl Iterator<Item = (Arc<str>, usize)> + '_ {
        self.slices.keys().map(move |name| (Arc::clone(name), index))
    }
}

fn name_of(slice: &EndpointSlice) -> Result<&str, Nameless> {
    slice.metadata.name.as_deref().filter(|name| !name.is_empty()).ok_or(Nameless)
}
