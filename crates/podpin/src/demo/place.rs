//! Where a demo takes place: two free ports, a directory that vanishes, the configuration that names them.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use std::time::Duration;

use anyhow::Context;

/// Ports tried after the one that was asked for.
const PORTS_TRIED: u16 = 100;

/// How streams leave a pod that is stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct DrainTimes {
    /// Time over which the streams of a pod leave, evenly.
    pub(super) spread: Duration,
    /// By then all have.
    pub(super) timeout: Duration,
}

/// The addresses and the directory of one demo. Dropping it removes the directory.
pub(super) struct Place {
    listen: SocketAddr,
    admin: SocketAddr,
    directory: PathBuf,
    moved: Vec<String>,
}

impl Place {
    /// Finds free ports from the given ones on and creates the directory.
    pub(super) fn find(listen: SocketAddr, admin: SocketAddr) -> anyhow::Result<Self> {
        // Both stay bound until both are found, so that one port is not found twice.
        let proxy_port = bind_free(listen)?;
        let admin_port = bind_free(admin)?;
        let (found_listen, found_admin) = (proxy_port.local_addr()?, admin_port.local_addr()?);
        let moved = [(listen, found_listen), (admin, found_admin)]
            .into_iter()
            .filter(|(asked, found)| asked.port() != 0 && asked != found)
            .map(|(asked, found)| format!("port {} is taken, using {}", asked.port(), found.port()))
            .collect();
        Ok(Self { listen: found_listen, admin: found_admin, directory: create_directory()?, moved })
    }

    /// Returns a sentence for each port that was taken.
    pub(super) fn moved(&self) -> &[String] {
        &self.moved
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The endpoints file that the demo writes and the proxy watches.
    pub(super) fn endpoints_file(&self) -> PathBuf {
        self.directory.join("endpoints.yaml")
    }

    /// The proxy's address as a client on this machine reaches it.
    pub(super) fn reachable_listen(&self) -> SocketAddr {
        reachable(self.listen)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.reachable_listen())
    }

    pub(super) fn admin_url(&self) -> String {
        format!("http://{}", reachable(self.admin))
    }

    /// The proxy's configuration. The slow start is off so that a pod started again is seen to take clients at once, and a
    /// person may stop one pod after the other for as long as they like.
    ///
    /// With a `rate` so many clients a second may come, and those above it are told to come up to two seconds later.
    pub(super) fn configuration(&self, drain: DrainTimes, rate: Option<usize>) -> String {
        let Self { listen, admin, .. } = self;
        let (spread, timeout) = (drain.spread.as_millis(), drain.timeout.as_millis());
        let herd = rate.map_or(String::new(), |rate| {
            format!(", drain: {{min: 500ms, max: 2s}}}}, reconnect: {{perSecond: {rate}")
        });
        format!(
            "listeners:\n  - {{name: http, address: \"{listen}\"}}\n\
             admin: {{address: \"{admin}\"}}\n\
             affinityKeys: ephemeral\n\
             accessLog: off\n\
             routes:\n  - {{name: demo, service: demo}}\n\
             services:\n  demo:\n\
             \x20   discovery: {{file: {{path: endpoints.yaml}}}}\n\
             \x20   balance: {{strategy: leastStreams, slowStart: off}}\n\
             \x20   drain: {{handover: lastEventId, spread: {spread}ms, timeout: {timeout}ms, \
             handoversPerStream: {{limit: 1000, window: 1m}}}}\n\
             \x20   sse: {{keepAlive: 15s, retry: {{normal: 1s{herd}}}}}\n"
        )
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "the demo's directory stays");
        }
    }
}

fn bind_free(asked: SocketAddr) -> anyhow::Result<TcpListener> {
    let ports = asked.port()..=asked.port().saturating_add(PORTS_TRIED);
    for port in ports {
        match TcpListener::bind((asked.ip(), port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => return bound.with_context(|| format!("cannot listen on {}:{port}", asked.ip())),
        }
    }
    anyhow::bail!("port {} and the {PORTS_TRIED} after it are taken", asked.port())
}

/// Only this user may read it; `create` refuses a directory that someone else has put there.
fn create_directory() -> anyhow::Result<PathBuf> {
    let parent = std::env::temp_dir();
    let mut attempt = 0_u32;
    loop {
        let directory = parent.join(format!("podpin-demo-{}-{attempt}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < 1_000 => attempt += 1,
            created => {
                created.with_context(|| format!("cannot create {}", directory.display()))?;
                return Ok(directory);
            }
        }
    }
}

fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_port() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[test]
    fn a_taken_port_is_passed_over_and_said() {
        let taken = TcpListener::bind(any_port()).unwrap();
        let asked = taken.local_addr().unwrap();
        let place = Place::find(asked, asked).unwrap();
        assert!(place.listen.port() > asked.port());
        assert!(place.admin.port() > place.listen.port());
        assert_eq!(place.moved().len(), 2);
        assert!(place.moved()[0].contains(&asked.port().to_string()), "{:?}", place.moved());
    }

    #[test]
    fn a_place_leaves_nothing_behind() {
        let place = Place::find(any_port(), any_port()).unwrap();
        assert!(place.moved().is_empty());
        let directory = place.directory().to_owned();
        std::fs::write(place.endpoints_file(), "[]").unwrap();
        drop(place);
        assert!(!directory.exists());
    }

    #[test]
    fn an_address_for_all_interfaces_is_reached_on_loopback() {
        let place = Place::find((Ipv4Addr::UNSPECIFIED, 0).into(), any_port()).unwrap();
        assert_eq!(place.url(), format!("http://127.0.0.1:{}", place.listen.port()));
    }
}
