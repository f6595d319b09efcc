//! The same proxy twice, with HTTP/2 without TLS and with it, and raw connections to either.

use podpin_testkit::{Authority, Connection, H2Connection, H2Frame, Pod, Proxy, Request, Setup, TlsClient};

/// The pseudo fields of a GET; a path follows.
pub(super) const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":authority", "app")];
pub(super) const POST: [(&str, &str); 3] = [(":method", "POST"), (":scheme", "http"), (":authority", "app")];

/// A proxy and the way to reach it.
pub(super) struct Front {
    pub(super) proxy: Proxy,
    tls: Option<(Authority, TlsClient)>,
}

impl Front {
    /// Starts a proxy without TLS.
    pub(super) async fn plain(setup: &Setup) -> Front {
        Front { proxy: setup.clone().h2c().start().await, tls: None }
    }

    /// Starts a proxy with TLS.
    pub(super) async fn secured(setup: &Setup) -> Front {
        let authority = Authority::new();
        // Raw requests are for `app`.
        authority.issue("one", &["localhost", "app"]);
        let words = format!("{{certificates: [{}]}}", authority.entry("one"));
        let proxy = setup.clone().tls(&words).start().await;
        let client = authority.client(&["h2"]);
        Front { proxy, tls: Some((authority, client)) }
    }

    /// Both.
    pub(super) async fn both(setup: &Setup) -> [Front; 2] {
        [Front::plain(setup).await, Front::secured(setup).await]
    }

    /// A connection on which nothing was sent.
    pub(super) async fn connect(&self) -> Connection {
        match &self.tls {
            None => self.proxy.connect().await,
            Some((_, client)) => client.connect(self.proxy.address, "localhost").await,
        }
    }

    /// A connection that has begun with plain settings.
    pub(super) async fn begun(&self) -> Connection {
        let mut connection = self.connect().await;
        connection.begin_h2(&H2Frame::settings()).await;
        connection
    }

    /// A client with manners.
    pub(super) async fn client(&self) -> H2Connection {
        match &self.tls {
            None => H2Connection::open(self.proxy.address).await,
            Some((_, client)) => client.h2(self.proxy.address, "localhost").await,
        }
    }

    /// Asks as one with manners a few times, which must be answered by `pod`.
    pub(super) async fn serves(&self, pod: &Pod) {
        let mut client = self.client().await;
        for _ in 0..5 {
            let response = client.send(&Request::get("/who")).await;
            assert_eq!((response.status, response.text().as_str()), (200, pod.name()));
        }
    }

    /// Waits until so many connections were cut for this reason.
    pub(super) async fn wait_cut(&self, reason: &str, count: u32) {
        let name = "podpin_http2_connections_cut_total";
        self.proxy.wait_metric(name, &[("reason", reason)], f64::from(count)).await;
    }
}

/// These pseudo fields with a path.
pub(super) fn with_path<'a>(fields: &[(&'a str, &'a str)], path: &'a str) -> Vec<(&'a str, &'a str)> {
    [fields, &[(":path", path)]].concat()
}

/// How often the pod was asked for this path.
pub(super) fn asked(pod: &Pod, path: &str) -> usize {
    pod.requests().iter().filter(|request| request.path() == path).count()
}
