//! A network of a test's own, at whose far end a client can vanish without a word: no FIN, no reset, no answer.
//!
//! ```text
//!   near: the test, pods, the proxy          far: a router, and the client behind it
//!   lo   127.0.0.1
//!   veth 10.99.0.1 ───────────────────────── veth 10.99.0.2
//!                                            lo   192.0.2.1 (until it vanishes)
//! ```
//!
//! Two network namespaces (network_namespaces(7)), which end with the test. The router stays when the client goes and
//! drops what is for it, as a network does: with the cable itself cut, the near end would hear of it. Only root may
//! make namespaces, and not in every container: [`Network::with`] says so.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tokio::net::TcpStream;

use crate::{Connection, H2Connection, PATIENCE, wait_for};

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Set where a test must not be left out: a machine that checks changes can make namespaces, or should say so.
const REQUIRED: &str = "PODPIN_NAMESPACES_REQUIRED";

/// Both namespaces, joined.
#[derive(Debug)]
pub struct Network {
    far: File,
}

impl Network {
    /// Where a server has to listen for the client to reach it.
    pub const NEAR: Ipv4Addr = NEAR;

    /// Runs a test in a network of its own, where this process may make one; says that it did not where it may not.
    ///
    /// # Panics
    /// As the test does; and when there is no network although `PODPIN_NAMESPACES_REQUIRED` is set.
    pub fn with<T>(test: T)
    where
        T: AsyncFnOnce(Network) + Send + 'static,
    {
        // A namespace is a thread's: one that ends with the test, so that no other test is left in it.
        let ran = thread::spawn(|| {
            enter_new()?;
            let network = Network::lay()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(test(network));
            std::io::Result::Ok(())
        });
        let error = match ran.join() {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        let required = std::env::var_os(REQUIRED).is_some();
        assert!(
            denied && !required,
            "no network namespaces ({error}), which {REQUIRED} asks for: {required}"
        );
        // Not `eprintln!`, which a test that passes keeps to itself.
        let said =
            writeln!(std::io::stderr(), "SKIPPED: no network namespaces here ({error}); root may make them");
        said.expect("standard error");
    }

    /// Gives this thread, and the programs that it starts from now on, a `/etc/resolv.conf` of their own: the file at `path`.
    ///
    /// # Panics
    /// When this process may not mount.
    pub fn resolve_as(&self, path: &Path) {
        unshare(UnshareFlags::NEWNS).expect("a mount namespace");
        run("mount", &["--make-rprivate", "/"]);
        run("mount", &["--bind", &path.display().to_string(), "/etc/resolv.conf"]);
    }

    /// In a thread that is in the near one.
    fn lay() -> std::io::Result<Network> {
        let far = thread::scope(|scope| {
            let made = scope.spawn(|| enter_new().and_then(|()| File::open("/proc/thread-self/ns/net")));
            made.join().expect("the thread that makes a namespace")
        })?;
        let network = Network { far };
        let handle = format!("/proc/{}/fd/{}", std::process::id(), network.far.as_raw_fd());
        ip("link set lo up");
        ip("link add near type veth peer name far");
        ip(&format!("link set far netns {handle}"));
        ip(&format!("address add {NEAR}/30 dev near"));
        ip("link set near up");
        network.at_far_end(|| {
            ip("link set lo up");
            ip(&format!("address add {ROUTER}/30 dev far"));
            ip("link set far up");
            ip(&format!("address add {CLIENT}/32 dev lo"));
            ip(&format!("route replace {NEAR}/32 dev far src {CLIENT}"));
        });
        ip(&format!("route add {CLIENT}/32 via {ROUTER}"));
        Ok(network)
    }

    /// Runs `work` at the far end; the sockets that it opens stay there.
    fn at_far_end<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let there = || {
            let moved = move_into_link_name_space(self.far.as_fd(), Some(LinkNameSpaceType::Network));
            moved.expect("the namespace at the far end");
            work()
        };
        thread::scope(|scope| scope.spawn(there).join()).expect("what was done at the far end")
    }

    fn connected(&self, server: SocketAddr) -> TcpStream {
        let opened = self.at_far_end(|| std::net::TcpStream::connect_timeout(&server, PATIENCE));
        let stream = opened.unwrap_or_else(|error| panic!("cannot connect to {server}: {error}"));
        stream.set_nonblocking(true).expect("O_NONBLOCK");
        TcpStream::from_std(stream).expect("a socket of this runtime")
    }

    /// A connection of the client.
    pub fn connect(&self, server: SocketAddr) -> Connection {
        Connection::over(self.connected(server))
    }

    /// A connection of the client, in HTTP/2.
    pub async fn connect_h2(&self, server: SocketAddr) -> H2Connection {
        H2Connection::over(self.connected(server)).await
    }

    /// Waits until the client has acknowledged everything that the server at the near end has sent: without that, the
    /// kernel retransmits it and sends no probes.
    ///
    /// # Panics
    /// When it does not.
    pub async fn all_acknowledged(&self, server: SocketAddr) {
        let port = format!(":{:04X}", server.port());
        wait_for("all to be acknowledged", async || {
            // Not `/proc/net`, which is the main thread's.
            let table = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("the kernel's table");
            // sl, local address, remote address, state (01: open), bytes to be acknowledged and to be read
            let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
            let mut queues = rows.filter_map(|row| match row.as_slice() {
                [_, local, _, "01", queues, ..] if local.ends_with(&port) => {
                    Some(queues.starts_with("00000000:"))
                }
                _ => None,
            });
            queues.next() == Some(true) && queues.all(|empty| empty)
        })
        .await;
    }

    /// Listens at the far end, where the client is.
    ///
    /// # Panics
    /// When it cannot.
    pub fn listen(&self) -> std::net::TcpListener {
        let listener = self.at_far_end(|| std::net::TcpListener::bind((CLIENT, 0)));
        let listener = listener.unwrap_or_else(|error| panic!("cannot listen at the far end: {error}"));
        listener.set_nonblocking(true).expect("O_NONBLOCK");
        listener
    }

    /// Delays everything between the two ends, so that a round trip takes twice this long; says why if the kernel cannot (`sch_netem`).
    ///
    /// # Errors
    /// The complaint of `tc`.
    pub fn delay(&self, one_way: Duration) -> Result<(), String> {
        let rule = |device| {
            format!("qdisc replace dev {device} root netem limit 100000 delay {}ms", one_way.as_millis())
        };
        tc(&rule("near"))?;
        self.at_far_end(|| tc(&rule("far")))
    }

    /// Brings the client back, with the address of before.
    pub fn client_returns(&self) {
        self.at_far_end(|| ip(&format!("address add {CLIENT}/32 dev lo")));
    }

    /// Takes the client away without a word to any socket.
    pub fn client_vanishes(&self) {
        self.at_far_end(|| ip(&format!("address del {CLIENT}/32 dev lo")));
    }
}

/// Runs `tc` in this thread's namespace.
fn tc(arguments: &str) -> Result<(), String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("tc").args(arguments.split(' ')).env("PATH", path).output();
    let output = output.map_err(|error| format!("tc: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Moves this thread into a network namespace of its own.
fn enter_new() -> std::io::Result<()> {
    unshare(UnshareFlags::NEWNET)
}

fn unshare(what: UnshareFlags) -> std::io::Result<()> {
    #[expect(
        deprecated,
        reason = "what replaces it is unsafe, because of file descriptors, which stay shared here"
    )]
    let made = rustix::thread::unshare(what);
    Ok(made?)
}

/// iproute2.
fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

/// Runs a program which Debian has where only root looks.
fn run(program: &str, arguments: &[&str]) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}
