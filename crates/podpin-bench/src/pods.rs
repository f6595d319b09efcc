//! The three pods of a run, as processes, and a word to them past the proxy.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::cli::LeashSignal;
use crate::process::{Process, own_binary};

/// How long a process may take until it answers. Generous: other work shares the machine.
const START_DEADLINE: Duration = Duration::from_secs(15);
const PODS: usize = 3;

/// Running pods.
#[derive(Debug)]
pub(crate) struct Pods {
    addresses: Vec<SocketAddr>,
    _processes: Vec<Process>,
}

impl Pods {
    /// Starts the pods; their logs go to `directory`.
    pub(crate) async fn start(directory: &Path) -> anyhow::Result<Self> {
        let mut addresses = Vec::new();
        let mut processes = Vec::new();
        for number in 0..PODS {
            let address = free_address()?;
            let log = directory.join(format!("pod-{number}.log"));
            let args = ["pod".to_owned(), "--listen".to_owned(), address.to_string()];
            let mut process = Process::start(log, LeashSignal::Kill, &own_binary()?, args)?;
            wait_until_it_listens(address, &mut process).await?;
            addresses.push(address);
            processes.push(process);
        }
        Ok(Self { addresses, _processes: processes })
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The event streams that the pods hold at this moment.
    pub(crate) fn streams(&self) -> anyhow::Result<u64> {
        self.addresses
            .iter()
            .map(|address| ask(*address, "/stats")?.parse::<u64>().context("no number from a pod"))
            .sum()
    }

    /// Ends all event streams that the pods hold, cleanly.
    pub(crate) fn end_streams(&self) -> anyhow::Result<()> {
        self.addresses.iter().try_for_each(|address| ask(*address, "/end").map(drop))
    }
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

fn ask(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect(address).context("a pod is gone")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: pod\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0_u8; 1024];
    loop {
        let length = socket.read(&mut buffer).context("no answer from a pod")?;
        answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
        let text = String::from_utf8_lossy(&answer);
        // The answer is so small that its head and body come in one write.
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && (length == 0 || !body.is_empty())
        {
            return Ok(body.to_owned());
        }
        if length == 0 {
            bail!("a pod closed the connection without an answer");
        }
    }
}
