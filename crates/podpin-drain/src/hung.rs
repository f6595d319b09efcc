//! Endpoints that neither are ready nor serve, and do not terminate: as good as hung. Their streams look for another place, and
//! stay if none takes them; requests of their clients go elsewhere already.

use std::time::Duration;

use podpin_endpoints::{Endpoint, EndpointId, IdMap, Phase, Snapshot};
use podpin_time::Millis;

/// Time after which streams that found no other place look again: four times a minute, so that `drain.handoversPerStream` (five)
/// leaves one for a drain. If it is too long, streams stay at a hung endpoint while another one is well again.
const REPEAT: Duration = Duration::from_secs(15);

/// Endpoints that hang and have streams, with the last time at which those were told to look for another place; `None` if no
/// endpoint was ready so far.
#[derive(Debug, Default)]
pub(crate) struct HungEndpoints(IdMap<Option<Millis>>);

impl HungEndpoints {
    /// Returns the endpoints whose streams look for another place now. None if no endpoint is ready to take them.
    pub(crate) fn due(&mut self, snapshot: &Snapshot, now: Millis) -> Vec<EndpointId> {
        let endpoints = snapshot.endpoints();
        let hung: Vec<EndpointId> = endpoints.iter().filter(|one| hangs(one)).map(|one| one.id).collect();
        self.0.retain(|id, _| hung.contains(id));
        let is_one_ready = endpoints.iter().any(|one| one.phase == Phase::Ready && !one.load.is_ejected(now));
        let mut due = Vec::new();
        for id in hung {
            let asked = self.0.entry(id).or_default();
            if is_one_ready && asked.is_none_or(|asked| now.since(asked) >= REPEAT) {
                *asked = Some(now);
                due.push(id);
            }
        }
        due
    }

    /// Whether no endpoint hangs that has streams.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn hangs(endpoint: &Endpoint) -> bool {
    let serves = endpoint.serving || endpoint.published;
    endpoint.phase == Phase::NotReady && !serves && endpoint.load.open_streams() > 0
}
