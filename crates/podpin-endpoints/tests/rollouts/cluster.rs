//! The pods of a Deployment or a StatefulSet, second by second, and the updates that discovery makes of them.

use podpin_endpoints::{Condition, EndpointId, Observed, Update};
use podpin_time::Millis;

/// Seconds over which the streams of a draining pod leave.
pub(crate) const SPREAD_SECONDS: u64 = 20;

/// Seconds from the beginning of a drain to the end of a pod.
pub(crate) const DRAIN_SECONDS: u64 = 30;

/// Seconds from the creation of a pod until it is listed: it has an address then.
const LISTING_SECONDS: u64 = 1;

/// The state of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Starting { listed_at: u64, ready_at: u64 },
    Ready,
    Draining { since: u64 },
}

/// A pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub name: String,
    /// Number among all pods that ever were.
    pub number: u64,
    /// Number of its template; `None` if it belongs to a StatefulSet.
    pub template: Option<u32>,
    pub state: State,
}

/// All pods that are listed.
#[derive(Default)]
pub(crate) struct Cluster {
    pub second: u64,
    pub pods: Vec<Pod>,
    created: u64,
    /// Updates since they were last taken.
    updates: Vec<Update>,
}

/// SplitMix64.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Pod {
    fn observed(&self) -> Observed {
        let uid = format!("uid-{}", self.number);
        let number = u16::try_from(self.number).unwrap().to_be_bytes();
        let address = ([10, 0, number[0], number[1]], 80).into();
        Observed {
            generation: self.template.map(|template| format!("chat-{template}").into()),
            condition: match self.state {
                State::Starting { .. } => Condition::NotReady { serving: false },
                State::Ready => Condition::Ready,
                State::Draining { .. } => Condition::Draining { serving: true },
            },
            ..Observed::ready(EndpointId::of_pod(&uid, 80), self.name.as_str(), address)
        }
    }

    fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining { .. })
    }
}

impl Cluster {
    /// Returns a cluster whose `pods` of the first template are ready, and its first list.
    pub(crate) fn running(pods: usize, template: Option<u32>) -> Cluster {
        let mut cluster = Cluster::default();
        (0..pods).for_each(|index| cluster.create(template, index));
        cluster.pods.iter_mut().for_each(|pod| pod.state = State::Ready);
        let list = cluster.pods.iter().map(Pod::observed).collect();
        cluster.updates = vec![Update::Replace(list)];
        cluster
    }

    pub(crate) fn now(&self) -> Millis {
        Millis(self.second * 1_000)
    }

    pub(crate) fn take_updates(&mut self) -> Vec<Update> {
        std::mem::take(&mut self.updates)
    }

    /// Lets a second pass: pods become ready, pods end.
    pub(crate) fn tick(&mut self) {
        self.second += 1;
        let second = self.second;
        for pod in &mut self.pods {
            if matches!(pod.state, State::Starting { listed_at, .. } if listed_at == second) {
                self.updates.push(Update::Upsert(vec![pod.observed()]));
            }
            if matches!(pod.state, State::Starting { ready_at, .. } if ready_at <= second) {
                pod.state = State::Ready;
                self.updates.push(Update::Upsert(vec![pod.observed()]));
            }
        }
        let is_over =
            |pod: &Pod| matches!(pod.state, State::Draining { since } if since + DRAIN_SECONDS < second);
        let over: Vec<EndpointId> =
            self.pods.iter().filter(|pod| is_over(pod)).map(|pod| pod.observed().id).collect();
        if !over.is_empty() {
            self.pods.retain(|pod| !is_over(pod));
            self.updates.push(Update::Remove(over));
        }
    }

    /// Creates a pod, which takes four to eight seconds to become ready. `index` names a pod of a StatefulSet.
    pub(crate) fn create(&mut self, template: Option<u32>, index: usize) {
        let number = self.created;
        self.created += 1;
        let name = match template {
            Some(template) => format!("chat-{template}-{number}"),
            None => format!("chat-{index}"),
        };
        let listed_at = self.second + LISTING_SECONDS;
        let state = State::Starting { listed_at, ready_at: self.second + 4 + mixed(number) % 5 };
        self.pods.push(Pod { name, number, template, state });
    }

    /// Ends up to `count` pods that `which` takes: those that are not ready first, then in any order.
    pub(crate) fn end(&mut self, count: usize, which: impl Fn(&Pod) -> bool) {
        let mut doomed: Vec<&mut Pod> =
            self.pods.iter_mut().filter(|pod| !pod.is_draining() && which(pod)).collect();
        doomed.sort_by_key(|pod| (pod.state == State::Ready, mixed(pod.number)));
        for pod in doomed.into_iter().take(count) {
            pod.state = State::Draining { since: self.second };
            self.updates.push(Update::Upsert(vec![pod.observed()]));
        }
    }

    /// Returns how many pods are wanted and `which` takes.
    pub(crate) fn count(&self, which: impl Fn(&Pod) -> bool) -> usize {
        self.pods.iter().filter(|pod| !pod.is_draining() && which(pod)).count()
    }

    /// Returns whether all pods are ready.
    pub(crate) fn is_quiet(&self) -> bool {
        self.pods.iter().all(|pod| pod.state == State::Ready)
    }
}
