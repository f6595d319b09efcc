//! The strategies by which a controller replaces pods.

use crate::cluster::{Cluster, Pod, State};
use crate::fleet::{Figures, Fleet, Law};

/// Seconds after which a rollout that is not done is a fault of the test.
const SECONDS_MAX: u64 = 10_000;

/// A share of the pods, as `maxSurge` and `maxUnavailable` have it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Share {
    Pods(usize),
    Percent(usize),
}

/// The replacement of pods.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rollout {
    Rolling { surge: Share, unavailable: Share },
    RolledBack,
    NodeDrain,
    ScaleDownAndUp,
    Recreate,
    StatefulSet,
}

impl Rollout {
    const NONE: Share = Share::Pods(0);
    const ONE: Share = Share::Pods(1);
    const QUARTER: Share = Share::Percent(25);

    pub(crate) const SURGE_ONE: Rollout = Rollout::Rolling { surge: Self::ONE, unavailable: Self::NONE };
    pub(crate) const SURGE_QUARTER: Rollout =
        Rollout::Rolling { surge: Self::QUARTER, unavailable: Self::NONE };
    pub(crate) const SURGE_ALL: Rollout =
        Rollout::Rolling { surge: Share::Percent(100), unavailable: Self::NONE };
    pub(crate) const UNAVAILABLE_ONE: Rollout =
        Rollout::Rolling { surge: Self::NONE, unavailable: Self::ONE };
    pub(crate) const UNAVAILABLE_QUARTER: Rollout =
        Rollout::Rolling { surge: Self::NONE, unavailable: Self::QUARTER };
    /// The default of a Deployment.
    pub(crate) const DEFAULT: Rollout = Rollout::Rolling { surge: Self::QUARTER, unavailable: Self::QUARTER };
    pub(crate) const BOTH_ONE: Rollout = Rollout::Rolling { surge: Self::ONE, unavailable: Self::ONE };
}

impl Share {
    fn of(self, pods: usize) -> usize {
        match self {
            Share::Pods(count) => count,
            Share::Percent(percent) => pods * percent / 100,
        }
    }
}

/// A Deployment on its way to a template.
struct Deployment {
    pods: usize,
    surge: usize,
    unavailable: usize,
    template: u32,
}

impl Deployment {
    /// Creates and ends pods as the controller does within a second: what it ends is replaced.
    fn reconcile(&self, cluster: &mut Cluster) {
        (0..2).for_each(|_| self.look(cluster));
    }

    fn look(&self, cluster: &mut Cluster) {
        let is_new = |pod: &Pod| pod.template == Some(self.template);
        let (new, old) = (cluster.count(is_new), cluster.count(|pod| !is_new(pod)));
        let room = (self.pods + self.surge).saturating_sub(new + old);
        for _ in 0..room.min(self.pods.saturating_sub(new)) {
            cluster.create(Some(self.template), 0);
        }
        let unready = cluster.count(|pod| !is_new(pod) && pod.state != State::Ready);
        let ready = cluster.count(|pod| pod.state == State::Ready);
        let spare = ready.saturating_sub(self.pods - self.unavailable);
        cluster.end(unready + spare, |pod| !is_new(pod));
    }

    fn is_done(&self, cluster: &Cluster) -> bool {
        cluster.pods.len() == self.pods
            && cluster.is_quiet()
            && cluster.pods.iter().all(|pod| pod.template == Some(self.template))
    }
}

/// Runs a rollout over a fleet of `pods`, until all is quiet.
pub(crate) fn run(rollout: Rollout, pods: usize, law: Law) -> Figures {
    let template = (!matches!(rollout, Rollout::StatefulSet)).then_some(1);
    let mut fleet = Fleet::new(Cluster::running(pods, template), law);
    let deployment =
        |surge: usize, unavailable: usize, template: u32| Deployment { pods, surge, unavailable, template };
    match rollout {
        Rollout::Rolling { surge, unavailable } => {
            roll(&mut fleet, &deployment(surge.of(pods), unavailable.of(pods), 2));
        }
        Rollout::RolledBack => {
            let forth = deployment(1, 0, 2);
            let is_half = |pod: &Pod| pod.template == Some(2) && pod.state == State::Ready;
            until(
                &mut fleet,
                |cluster| forth.reconcile(cluster),
                |cluster| cluster.count(is_half) >= pods / 2,
            );
            roll(&mut fleet, &deployment(1, 0, 1));
        }
        Rollout::NodeDrain => {
            fleet.cluster.end(pods / 4, |_| true);
            roll(&mut fleet, &deployment(0, pods / 4, 1));
        }
        Rollout::ScaleDownAndUp => {
            fleet.cluster.end(pods / 2, |_| true);
            let half = Deployment { pods: pods / 2, ..deployment(0, 0, 1) };
            roll(&mut fleet, &half);
            roll(&mut fleet, &deployment(0, 0, 1));
        }
        Rollout::Recreate => {
            fleet.cluster.end(pods, |_| true);
            until(&mut fleet, |_| {}, |cluster| cluster.pods.is_empty());
            roll(&mut fleet, &deployment(0, pods, 2));
        }
        Rollout::StatefulSet => {
            for index in (0..pods).rev() {
                let name = format!("chat-{index}");
                fleet.cluster.end(1, |pod| pod.name == name);
                until(&mut fleet, |_| {}, |cluster| cluster.pods.len() < pods);
                fleet.cluster.create(None, index);
                until(&mut fleet, |_| {}, Cluster::is_quiet);
            }
        }
    }
    fleet.figures()
}

fn roll(fleet: &mut Fleet, deployment: &Deployment) {
    until(fleet, |cluster| deployment.reconcile(cluster), |cluster| deployment.is_done(cluster));
}

/// Lets seconds pass until `is_done`.
fn until(fleet: &mut Fleet, reconcile: impl Fn(&mut Cluster), is_done: impl Fn(&Cluster) -> bool) {
    while !is_done(&fleet.cluster) {
        fleet.cluster.tick();
        reconcile(&mut fleet.cluster);
        fleet.turn();
        assert!(fleet.cluster.second < SECONDS_MAX, "the rollout never ends");
    }
}
