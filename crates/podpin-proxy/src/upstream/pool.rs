//! Idle connections to endpoints of one worker thread, kept for their next request.
//!
//! A connection stays on the thread that made it, so nothing here is shared and nothing waits. No task watches an idle
//! connection: the reactor notes that the endpoint has closed it, and it is checked before use, and every second by
//! [`sweep`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Weak;
use std::task::{Context, Waker};
use std::time::Duration;

use podpin_endpoints::{EndpointId, Phase};
use podpin_time::Millis;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;

use crate::balance::service::ServiceState;
use crate::clock;
use crate::net::tls::UpstreamTls;
use crate::net::transport::Transport;

/// Age of a kept connection up to which it may carry what must not be sent twice. No server closes one that soon after its last
/// response, and a client that sends a lot of these finds one; a shorter time would show as local ports in TIME_WAIT.
const FRESH_MAX: Duration = Duration::from_secs(1);
/// Connections kept to one endpoint: more than most serve at a time.
const OF_POD_MAX: usize = 128;
/// Connections kept by a worker; they take descriptors that streams could have.
const ALL_MAX: usize = 1024;
/// Time that a connection which the endpoint has closed may still hold a descriptor.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// An endpoint's address and TLS; connections are only reused for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    address: SocketAddr,
    /// Group of the TLS settings; 0 without TLS.
    group: u64,
}

#[derive(Default)]
struct Pool {
    kept: HashMap<Target, Vec<Kept>>,
    count: usize,
}

/// The endpoint that a connection leads to, as its service has it.
#[derive(Clone)]
pub(crate) struct Owner {
    /// Service, if it is still configured.
    pub service: Weak<ServiceState>,
    /// Endpoint of the service.
    pub endpoint: EndpointId,
}

impl Owner {
    /// Whether the endpoint is there and does not drain: a pod that stops waits for its idle connections, and another one may get its
    /// address.
    fn keeps(&self) -> bool {
        let Some(service) = self.service.upgrade() else { return false };
        let view = service.view();
        view.snapshot.get(&self.endpoint).is_some_and(|endpoint| endpoint.phase != Phase::Draining)
    }
}

struct Kept {
    transport: Transport,
    owner: Owner,
    since: Millis,
    until: Millis,
}

/// How old a kept connection may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// Any age within its time: the request may be sent again if the endpoint has closed the connection meanwhile.
    Any,
    /// Just used: the endpoint has not closed it.
    Fresh,
}

impl Target {
    /// Returns the target of connections to `address`.
    pub(crate) fn new(address: SocketAddr, tls: Option<&UpstreamTls>) -> Target {
        Target { address, group: tls.map_or(0, UpstreamTls::group) }
    }
}

/// Takes the connection to the target that was used last; `None` if there is none of that age.
pub(crate) fn take(target: &Target, age: Age) -> Option<Transport> {
    POOL.with_borrow_mut(|pool| pool.take(target, age))
}

/// Keeps a connection whose last response is complete, for that long, unless its endpoint drains.
pub(crate) fn keep(target: Target, transport: Transport, time: Duration, owner: Owner) {
    if owner.keeps() {
        POOL.with_borrow_mut(|pool| pool.keep(target, transport, time, owner));
    }
}

/// Closes connections that the endpoint has closed, that are idle for too long, or whose endpoint drains or is gone, until `closing`, and then all.
pub(crate) async fn sweep(mut closing: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            // An error means that the sender is gone, as after a shutdown.
            _ = closing.wait_for(|closing| *closing) => break,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
        POOL.with_borrow_mut(Pool::sweep);
    }
    POOL.with_borrow_mut(|pool| *pool = Pool::default());
}

impl Pool {
    fn take(&mut self, target: &Target, age: Age) -> Option<Transport> {
        let kept = self.kept.get_mut(target)?;
        let now = clock::now();
        // The last one is the youngest.
        while let Some(one) = kept.pop_if(|one| age == Age::Any || now.since(one.since) < FRESH_MAX) {
            self.count -= 1;
            let Kept { mut transport, until, .. } = one;
            if now < until && is_silent(&mut transport) {
                return Some(transport);
            }
        }
        None
    }

    fn keep(&mut self, target: Target, transport: Transport, time: Duration, owner: Owner) {
        let kept = self.kept.entry(target).or_default();
        if kept.len() < OF_POD_MAX && self.count < ALL_MAX {
            let since = clock::now();
            kept.push(Kept { transport, owner, since, until: since.after(time) });
            self.count += 1;
        }
    }

    fn sweep(&mut self) {
        let now = clock::now();
        self.kept.retain(|_, kept| {
            kept.retain_mut(|one| now < one.until && one.owner.keeps() && is_silent(&mut one.transport));
            !kept.is_empty()
        });
        self.count = self.kept.values().map(Vec::len).sum();
    }
}

/// Whether an idle connection is reusable: no EOF and no unsolicited bytes.
fn is_silent(transport: &mut Transport) -> bool {
    let mut byte = [0; 1];
    let read = poll_fn(|context| Pin::new(&mut *transport).poll_read(context, &mut ReadBuf::new(&mut byte)));
    // Unconstrained: a task that has used its budget of this turn would see `Pending` in any case.
    let read = pin!(tokio::task::unconstrained(read));
    read.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::coop;

    use super::*;

    #[tokio::test]
    async fn unsolicited_bytes_are_seen_at_the_end_of_a_turn_as_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connected = TcpStream::connect(address);
        let (accepted, tcp) = tokio::join!(listener.accept(), connected);
        let (mut pod, tcp) = (accepted.unwrap().0, tcp.unwrap());
        let mut quiet = Transport::Plain(tcp);
        assert!(is_silent(&mut quiet));
        pod.write_all(b"x").await.unwrap();
        quiet.tcp().readable().await.unwrap();
        while coop::has_budget_remaining() {
            coop::consume_budget().await;
        }
        assert!(!is_silent(&mut quiet));
    }
}
