//! The demo's three pods: starts them, tells the proxy about them through the endpoints file, stops them on request.
//!
//! A pod leaves the file first and is cut a moment later, as in a cluster where the endpoint goes away and the
//! process follows. A pod that comes back has another port, so to the proxy it is another endpoint.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use podpin_example::{ControlError, DemoControl, DemoPod, DemoPodState, ExamplePod, Log, PodSettings};

use super::place::Place;

const NAMES: [&str; 3] = ["pod-a", "pod-b", "pod-c"];

/// From leaving the endpoints file to being cut. Long enough for the answer to the request that stops the pod, which
/// may come through that very pod, and for the proxy to read the file.
const LEAVING: Duration = Duration::from_millis(300);

/// The running pods. Dropping it stops them all.
pub(super) struct DemoPods {
    cluster: Arc<Cluster>,
    undertaker: Option<JoinHandle<()>>,
}

impl DemoPods {
    /// Starts all pods over `log` and writes the endpoints file.
    pub(super) fn start(log: &Arc<Log>, place: &Place) -> anyhow::Result<Self> {
        // A pod leaves at most once at a time: the queue never fills.
        let (leaving, due) = sync_channel(NAMES.len());
        let slots = NAMES.iter().map(|name| Slot { name, pod: None, state: DemoPodState::Stopped }).collect();
        let cluster = Arc::new(Cluster {
            log: Arc::clone(log),
            endpoints_file: place.endpoints_file(),
            admin_url: place.admin_url(),
            slots: Mutex::new(Slots { slots, leaving: Some(leaving) }),
        });
        let attended = Arc::clone(&cluster);
        let undertaker =
            std::thread::Builder::new().name("demo pods".to_owned()).spawn(move || bury(&attended, &due))?;
        let pods = Self { cluster, undertaker: Some(undertaker) };
        for name in NAMES {
            pods.cluster.start_pod(name).with_context(|| format!("cannot start {name}"))?;
        }
        Ok(pods)
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

struct Cluster {
    log: Arc<Log>,
    endpoints_file: PathBuf,
    admin_url: String,
    slots: Mutex<Slots>,
}

struct Slots {
    slots: Vec<Slot>,
    /// `None` once the demo ends.
    leaving: Option<SyncSender<Leaving>>,
}

struct Slot {
    name: &'static str,
    pod: Option<ExamplePod>,
    state: DemoPodState,
}

/// A pod that is to be cut.
struct Leaving {
    name: &'static str,
    due: Instant,
}

impl Cluster {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_pod(self: &Arc<Self>, name: &str) -> anyhow::Result<()> {
        let mut slots = self.lock();
        if let Some(slot) = slots.find(name) {
            slot.pod = Some(ExamplePod::start(PodSettings {
                control: Some(Arc::new(Control(Arc::clone(self)))),
                ..PodSettings::new(name, ([127, 0, 0, 1], 0).into(), Arc::clone(&self.log))
            })?);
            slot.state = DemoPodState::Ready;
        }
        slots.write_endpoints(&self.endpoints_file)
    }

    fn stop_pod(&self, name: &str) -> Result<(), ControlError> {
        let mut slots = self.lock();
        let ready = slots.slots.iter().filter(|slot| slot.state == DemoPodState::Ready).count();
        let slot = slots.find(name).ok_or(ControlError::UnknownPod)?;
        if slot.state != DemoPodState::Ready {
            return Err(ControlError::AlreadySo);
        }
        if ready == 1 {
            return Err(ControlError::LastPod);
        }
        slot.state = DemoPodState::Stopping;
        let leaving = Leaving { name: slot.name, due: Instant::now() + LEAVING };
        slots.write_endpoints(&self.endpoints_file).map_err(failed)?;
        let queue = slots.leaving.clone().ok_or(ControlError::Failed)?;
        drop(slots);
        queue.try_send(leaving).map_err(|_| ControlError::Failed)
    }

    fn pods(&self) -> Vec<DemoPod> {
        self.lock().slots.iter().map(Slot::shown).collect()
    }
}

/// What a pod holds of the demo.
struct Control(Arc<Cluster>);

impl DemoControl for Control {
    fn pods(&self) -> Vec<DemoPod> {
        self.0.pods()
    }

    fn stop(&self, name: &str) -> Result<(), ControlError> {
        self.0.stop_pod(name)
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
}

impl Slots {
    fn find(&mut self, name: &str) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.name == name)
    }

    /// Replaces the file in one step, so that the proxy never reads half of it.
    fn write_endpoints(&self, file: &Path) -> anyhow::Result<()> {
        let mut text = String::from("# Written by podpin demo.\n");
        let ready = self.slots.iter().filter(|slot| slot.state == DemoPodState::Ready);
        for (slot, pod) in ready.filter_map(|slot| slot.pod.as_ref().map(|pod| (slot, pod))) {
            writeln!(text, "- {{name: {}, address: \"{}\", state: ready}}", slot.name, pod.address())?;
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

/// Cuts pods when they are due, on a thread of its own: a pod cannot end on the thread that it runs on.
fn bury(cluster: &Cluster, leaving: &Receiver<Leaving>) {
    while let Ok(Leaving { name, due }) = leaving.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let pod = {
            let mut slots = cluster.lock();
            let slot = slots.find(name);
            slot.and_then(|slot| {
                slot.state = DemoPodState::Stopped;
                slot.pod.take()
            })
        };
        drop(pod);
    }
}

fn failed(error: anyhow::Error) -> ControlError {
    tracing::error!("{error:#}");
    ControlError::Failed
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};

    use super::*;

    fn place() -> Place {
        let any_port = ([127, 0, 0, 1], 0).into();
        Place::find(any_port, any_port).unwrap()
    }

    fn endpoints(place: &Place) -> Vec<String> {
        let text = std::fs::read_to_string(place.endpoints_file()).unwrap();
        text.lines().filter(|line| line.starts_with("- ")).map(str::to_owned).collect()
    }

    #[test]
    fn every_pod_is_in_the_endpoints_file_with_its_address() {
        let place = place();
        let pods = DemoPods::start(&Log::memory(), &place).unwrap();
        let expected: Vec<String> = pods.cluster.pods().iter().map(expected_line).collect();
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

    #[test]
    fn a_stopped_pod_leaves_the_file_then_its_port_and_returns_on_another() {
        let place = place();
        let pods = DemoPods::start(&Log::memory(), &place).unwrap();
        let control = Control(Arc::clone(&pods.cluster));
        let address = control.pods()[1].address.unwrap();
        let answer = ask(address, "POST /demo/pods/pod-b/stop");
        assert!(answer.starts_with("HTTP/1.0 202"), "the pod's own end is answered through it: {answer}");
        assert_eq!(control.start("pod-b"), Err(ControlError::AlreadySo));
        assert!(endpoints(&place).iter().all(|line| !line.contains("pod-b")));
        while control.pods()[1].state != DemoPodState::Stopped || TcpStream::connect(address).is_ok() {
            std::thread::yield_now();
        }
        control.start("pod-b").unwrap();
        assert_eq!(endpoints(&place)[1], expected_line(&control.pods()[1]));
    }

    #[test]
    fn the_last_pod_and_an_unknown_one_are_not_stopped() {
        let place = place();
        let pods = DemoPods::start(&Log::memory(), &place).unwrap();
        let control = Control(Arc::clone(&pods.cluster));
        assert_eq!(control.stop("pod-x"), Err(ControlError::UnknownPod));
        assert_eq!(control.start("pod-x"), Err(ControlError::UnknownPod));
        control.stop("pod-a").unwrap();
        assert_eq!(control.stop("pod-a"), Err(ControlError::AlreadySo));
        control.stop("pod-b").unwrap();
        assert_eq!(control.stop("pod-c"), Err(ControlError::LastPod));
        assert_eq!(endpoints(&place).len(), 1);
    }
}
