//! The pods of a run, as processes, and a word to them past the proxy.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::cli::LeashSignal;
use crate::client::http::parse_head;
use crate::process::{Process, own_binary};

/// How long a process may take until it answers. Generous: other work shares the machine.
const START_DEADLINE: Duration = Duration::from_secs(15);
/// Fewest pods.
const PODS: u32 = 3;
/// A proxy reaches a pod from 28,000 ports of its one address, and what it closed keeps its port for a minute: half of
/// them, so that a second wave finds as many.
const STREAMS_OF_A_POD: u32 = 14_000;

/// Running pods.
#[derive(Debug)]
pub(crate) struct Pods {
    addresses: Vec<SocketAddr>,
    processes: RefCell<Vec<Process>>,
    directory: PathBuf,
}

impl Pods {
    /// Starts enough pods for as many `streams` at once; their logs go to `directory`.
    pub(crate) async fn start(directory: &Path, streams: u32) -> anyhow::Result<Self> {
        let mut addresses = Vec::new();
        let mut processes = Vec::new();
        for number in 0..pods_for(streams) as usize {
            let address = free_address()?;
            processes.push(start_pod(directory, number, address).await?);
            addresses.push(address);
        }
        Ok(Self { addresses, processes: RefCell::new(processes), directory: directory.to_owned() })
    }

    /// Starts a pod beside these; it ends when its process is dropped.
    pub(crate) async fn one_more(&self) -> anyhow::Result<(SocketAddr, Process)> {
        let address = free_address()?;
        Ok((address, start_pod(&self.directory, self.addresses.len(), address).await?))
    }

    /// Kills the pod `number` (SIGKILL) and does not wait for its end.
    pub(crate) fn kill(&self, number: usize) -> anyhow::Result<()> {
        let mut processes = self.processes.borrow_mut();
        processes.get_mut(number).context("there is no such pod")?.kill()
    }

    /// Starts the pod `number` at the same address again, after its end.
    pub(crate) async fn restart(&self, number: usize) -> anyhow::Result<()> {
        let address = *self.addresses.get(number).context("there is no such pod")?;
        // Ended before the next one binds its address.
        drop(self.processes.borrow_mut().remove(number));
        let process = start_pod(&self.directory, number, address).await?;
        self.processes.borrow_mut().insert(number, process);
        Ok(())
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The event streams that the pods hold at this moment.
    pub(crate) fn streams(&self) -> anyhow::Result<u64> {
        self.addresses.iter().map(|address| Ok(stats(*address)?.0)).sum()
    }

    /// The requests that the pod `number` has had so far.
    pub(crate) fn requests(&self, number: usize) -> anyhow::Result<u64> {
        Ok(stats(*self.addresses.get(number).context("there is no such pod")?)?.1)
    }

    /// Ends all event streams that the pods hold, cleanly.
    pub(crate) fn end_streams(&self) -> anyhow::Result<()> {
        self.addresses.iter().try_for_each(|address| ask(*address, "/end").map(drop))
    }
}

async fn start_pod(directory: &Path, number: usize, address: SocketAddr) -> anyhow::Result<Process> {
    let log = directory.join(format!("pod-{number}.log"));
    let args = ["pod".to_owned(), "--listen".to_owned(), address.to_string()];
    let mut process = Process::start(log, LeashSignal::Kill, &own_binary()?, args)?;
    wait_until_it_listens(address, &mut process).await?;
    Ok(process)
}

fn pods_for(streams: u32) -> u32 {
    streams.div_ceil(STREAMS_OF_A_POD).max(PODS)
}

/// Open streams, and requests so far.
fn stats(address: SocketAddr) -> anyhow::Result<(u64, u64)> {
    let text = ask(address, "/stats")?;
    let (streams, requests) = text.split_once(' ').context("no numbers from a pod")?;
    Ok((streams.parse()?, requests.parse()?))
}

/// Waits until `address` accepts connections, or says why its process does not.
pub(crate) async fn wait_until_it_listens(address: SocketAddr, process: &mut Process) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_DEADLINE;
    while TcpStream::connect(address).is_err() {
        if let Some(words) = process.last_words() {
            bail!("the process for {address} ended: {words}");
        }
        if Instant::now() > deadline {
            bail!("nothing listens on {address} after {} s", START_DEADLINE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// An address on loopback where nothing listens, below the range that the kernel gives to outgoing connections.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    // Each call goes on where the last one stopped: an address given out is not in use at once.
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id();
    (0..10_000)
        .map(|_| start.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % 10_000)
        .filter_map(|offset| u16::try_from(21_000 + offset).ok())
        .map(|port| SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .context("no free port between 21000 and 31000")
}

/// The body of the answer to a GET of `path`, which must have a `Content-Length`, past any proxy.
pub(crate) fn ask(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect(address).with_context(|| format!("{address} is gone"))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: pod\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        if let Some(head) = parse_head(&answer)? {
            let length = head.content_length.context("an answer without Content-Length")?;
            if let Some(body) = answer.get(head.bytes..head.bytes + length) {
                return Ok(String::from_utf8_lossy(body).into_owned());
            }
        }
        let length = socket.read(&mut buffer).with_context(|| format!("no answer from {address}"))?;
        if length == 0 {
            bail!("{address} closed the connection without an answer");
        }
        answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pod_gets_more_streams_than_half_of_the_ports_that_lead_to_it() {
        assert_eq!(pods_for(1), 3);
        assert_eq!(pods_for(19_000), 3);
        assert_eq!(pods_for(42_001), 4);
        assert_eq!(pods_for(50_000), 4);
    }
}
