//! The same pods behind a plain proxy, to compare with: Pingora's own request loop and load balancer, with a cookie that names the
//! pod, as ingress controllers pin clients. It leaves out pods that are gone, and does nothing for the streams that they had.

use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use pingora::apps::HttpServerApp;
use pingora::http::ResponseHeader;
use pingora::prelude::{HttpPeer, ProxyHttp, Session};
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream;
use pingora::server::configuration::ServerConf;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use pingora_proxy::{HttpProxy, http_proxy};
use tokio::sync::watch;

use super::pods::Cluster;

/// Name of the cookie that pins a client.
const COOKIE: &str = "plain";
/// Time between two looks at which pods there are.
const DISCOVERY_INTERVAL: Duration = Duration::from_millis(100);
/// Seconds that a client's connection is kept between requests.
const KEEP_ALIVE_SECONDS: u64 = 60;
/// Endpoints that are looked at before one is given up.
const ENDPOINTS_TRIED: usize = 16;

/// The running proxy. Dropping it cuts its streams.
pub(super) struct PlainProxy {
    url: String,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl PlainProxy {
    /// Starts a proxy of the pods on a free port of this machine.
    ///
    /// # Errors
    /// If there is no port, or the system gives no thread.
    pub(super) fn start(cluster: Arc<Cluster>) -> anyhow::Result<PlainProxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port for the plain proxy")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = move || {
            if let Err(error) = runtime.block_on(serve(listener, cluster, stopped)) {
                tracing::error!(%error, "the plain proxy of the demo has ended");
            }
        };
        let thread = std::thread::Builder::new().name("plain proxy".to_owned()).spawn(serve)?;
        Ok(PlainProxy { url, stop, thread: Some(thread) })
    }

    /// Returns the address as a browser on this machine has it.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for PlainProxy {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the plain proxy of the demo panicked");
        }
    }
}

/// Accepts connections until the demo ends.
async fn serve(
    listener: TcpListener,
    cluster: Arc<Cluster>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let balancer = LoadBalancer::<RoundRobin>::from_backends(Backends::new(Box::new(Pods(cluster))));
    let balancer = Arc::new(balancer);
    balancer.update().await?;
    let conf = Arc::new(ServerConf { threads: 1, ..ServerConf::default() });
    let proxy = Arc::new(http_proxy(&conf, Plain(Arc::clone(&balancer))));
    let closing = stopped.clone();
    let mut discovery = tokio::time::interval(DISCOVERY_INTERVAL);
    loop {
        tokio::select! {
            // An error means that the demo is gone.
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            _ = discovery.tick() => balancer.update().await?,
            accepted = listener.accept() => {
                let (socket, _) = accepted?;
                drop(tokio::spawn(attend(Arc::clone(&proxy), Stream::from(socket), closing.clone())));
            }
        }
    }
}

/// Serves the requests of one connection.
async fn attend(proxy: Arc<HttpProxy<Plain>>, stream: Stream, closing: watch::Receiver<bool>) {
    let mut session = ServerSession::new_http1(Box::new(stream));
    loop {
        session.set_keepalive(Some(KEEP_ALIVE_SECONDS));
        let Some(reused) = proxy.process_new_http(session, &closing).await else { return };
        session = ServerSession::new_http1(reused.consume().0);
    }
}

/// The pods that are not leaving, as a Service lists them.
struct Pods(Arc<Cluster>);

#[async_trait]
impl ServiceDiscovery for Pods {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let backends = self.0.ready_addresses().into_iter();
        let backends =
            backends.map(|address| Backend::new(&address.to_string())).collect::<Result<_, _>>()?;
        Ok((backends, HashMap::new()))
    }
}

/// A request loop that pins by a cookie.
struct Plain(Arc<LoadBalancer<RoundRobin>>);

impl Plain {
    /// Returns the pod that the cookie of a request names, if there is one.
    fn pinned(&self, session: &Session) -> Option<Backend> {
        let cookies = session.req_header().headers.get_all("cookie").iter();
        let mut pairs = cookies.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(';'));
        let value = pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
        let pinned = Backend::new(value).ok()?;
        self.0.backends().get_backend().get(&pinned).cloned()
    }
}

#[async_trait]
impl ProxyHttp for Plain {
    /// The pod that is asked.
    type CTX = Option<SocketAddr>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        asked: &mut Self::CTX,
    ) -> pingora::Result<Box<HttpPeer>> {
        let backend = self.pinned(session).or_else(|| self.0.select(b"", ENDPOINTS_TRIED));
        let backend =
            backend.ok_or_else(|| pingora::Error::explain(pingora::HTTPStatus(503), "no pod is ready"))?;
        *asked = backend.addr.as_inet().copied();
        Ok(Box::new(HttpPeer::new(&backend.addr, false, String::new())))
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        asked: &mut Self::CTX,
    ) -> pingora::Result<()> {
        if let Some(address) = asked {
            response.append_header("set-cookie", format!("{COOKIE}={address}; Path=/; HttpOnly"))?;
        }
        // The page is that of the other proxy, and so of another origin.
        if let Some(origin) = session.req_header().headers.get("origin").cloned() {
            response.insert_header("access-control-allow-origin", origin)?;
            response.insert_header("access-control-allow-credentials", "true")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use podpin_example::{DemoControl, Log};

    use super::super::place::{DrainTimes, Place};
    use super::super::pods::{Control, DemoPods};
    use super::*;

    /// Opens a stream and returns it with its head, in which the pod has answered.
    fn open(proxy: &PlainProxy, cookie: &str) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(proxy.url().trim_start_matches("http://")).unwrap();
        stream.write_all(format!("GET /events HTTP/1.1\r\nHost: a\r\n{cookie}\r\n").as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        (stream, String::from_utf8(head).unwrap())
    }

    fn pinned_to(head: &str) -> String {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie: plain="));
        line.unwrap().split(['=', ';']).nth(1).unwrap().to_owned()
    }

    #[test]
    fn a_plain_proxy_pins_by_its_cookie_and_cuts_the_streams_of_a_pod_that_ends() {
        let any_port = ([127, 0, 0, 1], 0).into();
        let place = Place::find(any_port, any_port).unwrap();
        let drain = DrainTimes { spread: Duration::ZERO, timeout: Duration::ZERO };
        let pods = DemoPods::start(&Log::memory(), &place, drain).unwrap();
        let proxy = PlainProxy::start(pods.cluster()).unwrap();
        let (mut stream, head) = open(&proxy, "");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let address = pinned_to(&head);
        let cookie = format!("Cookie: a=b; plain={address}\r\n");
        for _ in 0..5 {
            assert_eq!(pinned_to(&open(&proxy, &cookie).1), address);
        }
        let control = Control::new(pods.cluster());
        let shown = control.pods().into_iter();
        let pod = shown.into_iter().find(|pod| pod.address.unwrap().to_string() == address).unwrap();
        control.stop(&pod.name).unwrap();
        let mut rest = Vec::new();
        // It is cut, as a FIN or a RST: both are an end.
        let _end = stream.read_to_end(&mut rest);
        while pinned_to(&open(&proxy, &cookie).1) == address {
            std::thread::yield_now();
        }
    }
}
