//! The demo's pods: starts them, tells the proxy about them through the endpoints file, stops or kills them on request.
//!
//! A pod that is stopped is `draining` in the file until its streams have moved away, then it leaves the file, and only
//! then it ends, as in a cluster. One that is killed ends first, and the file follows. A pod that comes back has another
//! port, so to the proxy it is another endpoint.
//!
//! ```text
//! Ready --stop--> Draining --(no streams left, or too late)--> Stopped --start--> Ready
//!    \---kill--> Dying ----(the request is answered)------------^
//! ```

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use podpin_example::{ControlError, DemoControl, DemoPod, DemoPodState, ExamplePod, Log, PodSettings};

use super::place::{DrainTimes, Place};

pub(super) const NAMES: [&str; 3] = ["pod-a", "pod-b", "pod-c"];

/// Pods that leave at a time: all there are in a rolling update.
const LEAVING_MAX: usize = 2 * NAMES.len();

/// From the request that stops or kills a pod to its end. Long enough for the answer to that request, which may come
/// through that very pod, and for the proxy to read the file.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Beyond the proxy's own deadline, which should never be needed.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// Between two looks at whether the streams of a leaving pod are gone. Looked at is a counter.
const LOOK: Duration = Duration::from_millis(20);

/// The running pods. Dropping it stops them all.
pub(super) struct DemoPods {
    cluster: Arc<Cluster>,
    undertaker: Option<JoinHandle<()>>,
}

impl DemoPods {
    /// Starts all pods over `log` and writes the endpoints file.
    pub(super) fn start(log: &Arc<Log>, place: &Place, drain: DrainTimes) -> anyhow::Result<Self> {
        let (leaving, due) = sync_channel(LEAVING_MAX);
        let cluster = Arc::new(Cluster {
            log: Arc::clone(log),
            endpoints_file: place.endpoints_file(),
            admin_url: place.admin_url(),
            drain_patience: drain.timeout + DRAIN_MARGIN,
            slots: Mutex::new(Slots { slots: Vec::new(), leaving: Some(leaving), plain_url: None }),
        });
        let attended = Arc::clone(&cluster);
        let undertaker =
            std::thread::Builder::new().name("demo pods".to_owned()).spawn(move || bury(&attended, &due))?;
        let pods = Self { cluster, undertaker: Some(undertaker) };
        for name in NAMES {
            pods.cluster.join(name).with_context(|| format!("cannot start {name}"))?;
        }
        Ok(pods)
    }

    /// Returns the control over the pods while the demo runs.
    pub(super) fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.cluster)
    }

    /// The pods and their ports in one line.
    pub(super) fn summary(&self) -> String {
        let pods = self.cluster.pods();
        let ports = pods
            .iter()
            .map(|pod| format!("{} (port {})", pod.name, pod.address.map_or(0, |address| address.port())));
        ports.collect::<Vec<_>>().join(", ")
    }
}

impl Drop for DemoPods {
    fn drop(&mut self) {
        let running: Vec<ExamplePod> = {
            let mut slots = self.cluster.lock();
            slots.leaving = None;
            slots.slots.iter_mut().filter_map(|slot| slot.pod.take()).collect()
        };
        // Stopped outside the lock: a request in one of them may be waiting for it.
        running.into_iter().for_each(ExamplePod::stop);
        if let Some(undertaker) = self.undertaker.take()
            && undertaker.join().is_err()
        {
            tracing::error!("the thread that stops the demo's pods panicked");
        }
    }
}

/// The pods, as those who may start and stop them hold them.
pub(super) struct Cluster {
    log: Arc<Log>,
    endpoints_file: PathBuf,
    admin_url: String,
    /// The longest that a pod is left draining.
    drain_patience: Duration,
    slots: Mutex<Slots>,
}

struct Slots {
    slots: Vec<Slot>,
    /// `None` if the demo has ended.
    leaving: Option<SyncSender<Leaving>>,
    /// Address of the plain proxy; `None` if there is none.
    plain_url: Option<String>,
}

struct Slot {
    name: &'static str,
    pod: Option<ExamplePod>,
    state: DemoPodState,
}

/// A pod that is to end.
struct Leaving {
    name: &'static str,
    way: Way,
    since: Instant,
}

/// How a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// When its streams have moved.
    Drained,
    /// In the middle of whatever it does.
    Killed,
}

impl Cluster {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a pod that was not there yet.
    pub(super) fn join(self: &Arc<Self>, name: &'static str) -> anyhow::Result<()> {
        self.lock().slots.push(Slot { name, pod: None, state: DemoPodState::Stopped });
        self.start_pod(name)
    }

    /// Forgets a pod; one that runs is stopped at once.
    pub(super) fn forget(&self, name: &str) {
        let gone = self.lock().slots.extract_if(.., |slot| slot.name == name).collect::<Vec<_>>();
        drop(gone);
    }

    /// Whether a pod has ended.
    pub(super) fn is_gone(&self, name: &str) -> bool {
        self.lock().find(name).is_none_or(|slot| slot.state == DemoPodState::Stopped)
    }

    fn start_pod(self: &Arc<Self>, name: &str) -> anyhow::Result<()> {
        let mut slots = self.lock();
        if let Some(slot) = slots.find(name) {
            slot.pod = Some(ExamplePod::start(PodSettings {
                control: Some(Arc::new(Control::new(Arc::clone(self)))),
                ..PodSettings::new(name, ([127, 0, 0, 1], 0).into(), Arc::clone(&self.log))
            })?);
            slot.state = DemoPodState::Ready;
        }
        slots.write_endpoints(&self.endpoints_file)
    }

    /// Begins to drain a pod, which ends when its streams have moved.
    pub(super) fn stop_pod(&self, name: &str) -> Result<(), ControlError> {
        self.let_leave(name, Way::Drained)
    }

    /// Lets a pod end in a moment, in the middle of whatever it does.
    pub(super) fn kill_pod(&self, name: &str) -> Result<(), ControlError> {
        self.let_leave(name, Way::Killed)
    }

    fn let_leave(&self, name: &str, way: Way) -> Result<(), ControlError> {
        let mut slots = self.lock();
        let ready = slots.slots.iter().filter(|slot| slot.state == DemoPodState::Ready).count();
        let slot = slots.find(name).ok_or(ControlError::UnknownPod)?;
        if slot.state != DemoPodState::Ready {
            return Err(ControlError::AlreadySo);
        }
        if ready == 1 {
            return Err(ControlError::LastPod);
        }
        slot.state = way.state_until_the_end();
        let leaving = Leaving { name: slot.name, way, since: Instant::now() };
        slots.write_endpoints(&self.endpoints_file).map_err(failed)?;
        let queue = slots.leaving.clone().ok_or(ControlError::Failed)?;
        drop(slots);
        queue.try_send(leaving).map_err(|_| ControlError::Failed)
    }

    /// Returns the addresses of the pods that the endpoints file calls ready.
    pub(super) fn ready_addresses(&self) -> Vec<SocketAddr> {
        let slots = self.lock();
        let is_listed = |slot: &&Slot| matches!(slot.state, DemoPodState::Ready | DemoPodState::Dying);
        slots.slots.iter().filter(is_listed).filter_map(|slot| Some(slot.pod.as_ref()?.address())).collect()
    }

    /// Says where the plain proxy is that the page may compare with.
    pub(super) fn compare_with(&self, url: &str) {
        self.lock().plain_url = Some(url.to_owned());
    }

    fn pods(&self) -> Vec<DemoPod> {
        self.lock().slots.iter().map(Slot::shown).collect()
    }

    /// Ends a pod if it is time; false if it is not.
    fn bury_if_due(&self, leaving: &Leaving) -> bool {
        let waited = leaving.since.elapsed();
        let mut slots = self.lock();
        let Some(slot) = slots.find(leaving.name) else { return true };
        let streams = slot.pod.as_ref().map_or(0, ExamplePod::open_streams);
        let has_streams = leaving.way == Way::Drained && streams > 0;
        if waited < LAST_WORDS || (has_streams && waited < self.drain_patience) {
            return false;
        }
        slot.state = DemoPodState::Stopped;
        let pod = slot.pod.take();
        let tell = |slots: &Slots| slots.write_endpoints(&self.endpoints_file).map_err(failed);
        // Both errors were said.
        let _told = match leaving.way {
            Way::Drained => {
                let told = tell(&slots);
                drop(slots);
                drop(pod);
                told
            }
            Way::Killed => {
                drop(slots);
                drop(pod);
                tell(&self.lock())
            }
        };
        true
    }
}

impl Way {
    fn state_until_the_end(self) -> DemoPodState {
        match self {
            Self::Drained => DemoPodState::Draining,
            Self::Killed => DemoPodState::Dying,
        }
    }
}

/// A pod's control over the demo.
pub(super) struct Control(Arc<Cluster>);

impl Control {
    pub(super) fn new(cluster: Arc<Cluster>) -> Control {
        Control(cluster)
    }
}

impl DemoControl for Control {
    fn pods(&self) -> Vec<DemoPod> {
        self.0.pods()
    }

    fn stop(&self, name: &str) -> Result<(), ControlError> {
        self.0.stop_pod(name)
    }

    fn kill(&self, name: &str) -> Result<(), ControlError> {
        self.0.kill_pod(name)
    }

    fn start(&self, name: &str) -> Result<(), ControlError> {
        let state = self.0.lock().find(name).map(|slot| slot.state).ok_or(ControlError::UnknownPod)?;
        if state != DemoPodState::Stopped {
            return Err(ControlError::AlreadySo);
        }
        self.0.start_pod(name).map_err(failed)
    }

    fn admin_url(&self) -> Option<String> {
        Some(self.0.admin_url.clone())
    }

    fn plain_url(&self) -> Option<String> {
        self.0.lock().plain_url.clone()
    }
}

impl Slots {
    fn find(&mut self, name: &str) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.name == name)
    }

    /// Replaces the file in one step, so that the proxy never reads half of it.
    fn write_endpoints(&self, file: &Path) -> anyhow::Result<()> {
        let mut text = String::from("# Written by podpin demo.\n");
        for (slot, pod) in self.slots.iter().filter_map(|slot| slot.pod.as_ref().map(|pod| (slot, pod))) {
            let state = match slot.state {
                DemoPodState::Ready | DemoPodState::Dying => "ready",
                DemoPodState::Draining => "draining",
                DemoPodState::Stopped => continue,
            };
            writeln!(text, "- {{name: {}, address: \"{}\", state: {state}}}", slot.name, pod.address())?;
        }
        let unfinished = file.with_extension("unfinished");
        std::fs::write(&unfinished, text)
            .and_then(|()| std::fs::rename(&unfinished, file))
            .with_context(|| format!("cannot write {}", file.display()))
    }
}

impl Slot {
    fn shown(&self) -> DemoPod {
        DemoPod {
            name: self.name.to_owned(),
            state: self.state,
            address: self.pod.as_ref().map(ExamplePod::address),
            streams: self.pod.as_ref().map_or(0, ExamplePod::open_streams),
        }
    }
}

/// Ends pods when they are due, on a thread of its own: a pod cannot end on the thread that it runs on.
fn bury(cluster: &Cluster, leaving: &Receiver<Leaving>) {
    let mut waiting: Vec<Leaving> = Vec::new();
    loop {
        let rest = if waiting.is_empty() { Duration::MAX } else { LOOK };
        match leaving.recv_timeout(rest) {
            Ok(one) => waiting.push(one),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        waiting.retain(|one| !cluster.bury_if_due(one));
    }
}

fn failed(error: anyhow::Error) -> ControlError {
    tracing::error!("{error:#}");
    ControlError::Failed
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    const DRAIN: DrainTimes = DrainTimes { spread: Duration::ZERO, timeout: Duration::from_secs(3_600) };

    fn place() -> Place {
        let any_port = ([127, 0, 0, 1], 0).into();
        Place::find(any_port, any_port).unwrap()
    }

    fn start(place: &Place, drain: DrainTimes) -> (DemoPods, Control) {
        let pods = DemoPods::start(&Log::memory(), place, drain).unwrap();
        let control = Control(pods.cluster());
        (pods, control)
    }

    fn wait_gone(control: &Control, name: &str) {
        while !control.0.is_gone(name) {
            std::thread::yield_now();
        }
    }

    fn endpoints(place: &Place) -> Vec<String> {
        let text = std::fs::read_to_string(place.endpoints_file()).unwrap();
        text.lines().filter(|line| line.starts_with("- ")).map(str::to_owned).collect()
    }

    #[test]
    fn every_pod_is_in_the_endpoints_file_with_its_address() {
        let place = place();
        let (_pods, control) = start(&place, DRAIN);
        let expected: Vec<String> = control.pods().iter().map(expected_line).collect();
        assert_eq!(expected.len(), NAMES.len());
        assert_eq!(endpoints(&place), expected);
    }

    fn expected_line(pod: &DemoPod) -> String {
        format!("- {{name: {}, address: \"{}\", state: ready}}", pod.name, pod.address.unwrap())
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.write_all(format!("{request} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    /// An event stream that is open at the pod.
    fn stream(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: pod\r\n\r\n").unwrap();
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        stream
    }

    #[test]
    fn a_stopped_pod_drains_until_its_streams_have_left_and_returns_on_another_port() {
        let place = place();
        let (_pods, control) = start(&place, DRAIN);
        let address = control.pods()[1].address.unwrap();
        let stream = stream(address);
        let answer = ask(address, "POST /demo/pods/pod-b/stop");
        assert!(answer.starts_with("HTTP/1.0 202"), "the pod's own end is answered through it: {answer}");
        assert_eq!(control.start("pod-b"), Err(ControlError::AlreadySo));
        let draining = expected_line(&control.pods()[1]).replace("ready", "draining");
        assert_eq!(endpoints(&place)[1], draining);
        assert_eq!(control.pods()[1].state, DemoPodState::Draining);
        drop(stream);
        wait_gone(&control, "pod-b");
        assert!(endpoints(&place).iter().all(|line| !line.contains("pod-b")));
        while TcpStream::connect(address).is_ok() {
            std::thread::yield_now();
        }
        control.start("pod-b").unwrap();
        assert_eq!(endpoints(&place)[1], expected_line(&control.pods()[1]));
    }

    #[test]
    fn a_drain_does_not_wait_for_ever() {
        let place = place();
        let (_pods, control) = start(&place, DrainTimes { timeout: Duration::ZERO, ..DRAIN });
        let mut stream = stream(control.pods()[0].address.unwrap());
        control.stop("pod-a").unwrap();
        let mut rest = Vec::new();
        // It is cut, as a FIN or a RST: both are an end.
        let _end = stream.read_to_end(&mut rest);
        assert!(!rest.ends_with(b"0\r\n\r\n"));
        wait_gone(&control, "pod-a");
    }

    #[test]
    fn a_killed_pod_leaves_the_file_when_it_is_cut_already() {
        let place = place();
        let (_pods, control) = start(&place, DRAIN);
        let address = control.pods()[2].address.unwrap();
        let mut stream = stream(address);
        let answer = ask(address, "POST /demo/pods/pod-c/kill");
        assert!(answer.starts_with("HTTP/1.0 202"), "{answer}");
        while let [.., line] = endpoints(&place).as_slice()
            && line.contains("pod-c")
        {
            assert!(line.ends_with("state: ready}"), "nobody is told: {line}");
            std::thread::yield_now();
        }
        assert!(TcpStream::connect(address).is_err());
        let mut rest = Vec::new();
        // It is cut, as a FIN or a RST: both are an end.
        let _end = stream.read_to_end(&mut rest);
        assert!(!rest.ends_with(b"0\r\n\r\n"));
        assert!(control.0.is_gone("pod-c"));
    }

    #[test]
    fn the_last_pod_and_an_unknown_one_are_not_stopped() {
        let place = place();
        let (_pods, control) = start(&place, DRAIN);
        assert_eq!(control.stop("pod-x"), Err(ControlError::UnknownPod));
        assert_eq!(control.kill("pod-x"), Err(ControlError::UnknownPod));
        assert_eq!(control.start("pod-x"), Err(ControlError::UnknownPod));
        control.stop("pod-a").unwrap();
        assert_eq!(control.stop("pod-a"), Err(ControlError::AlreadySo));
        assert_eq!(control.kill("pod-a"), Err(ControlError::AlreadySo));
        control.kill("pod-b").unwrap();
        assert_eq!(control.stop("pod-c"), Err(ControlError::LastPod));
        assert_eq!(control.kill("pod-c"), Err(ControlError::LastPod));
        wait_gone(&control, "pod-a");
        wait_gone(&control, "pod-b");
        while endpoints(&place).len() > 1 {
            std::thread::yield_now();
        }
    }
}
