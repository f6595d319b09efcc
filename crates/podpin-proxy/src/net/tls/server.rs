//! TLS of a listener: certificates from files, the right one for each name, read again when the files change.
//!
//! The whole TLS of a listener is one snapshot, built and checked before it is used: a file that is missing, a malformed
//! certificate, a key of another certificate keep the one before in use. Connections keep the TLS that they began with.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use podpin_config::{CertificatePart, ClientAuth, Listener, ListenerTls, PlainHttp, TlsVersion};
use podpin_time::Millis;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, ServerConfig, version};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::net::tls::certificate::{self, Certificate};
use crate::net::tls::error::TlsError;
use crate::net::tls::failure::HandshakeFailure;
use crate::net::tls::provider::provider;
use crate::net::tls::tickets::SharedTickets;
use crate::net::transport::{CertificateNames, Transport};
use crate::telemetry::labels::{HandshakeResumed, HandshakeVersion, Label as _, TlsFailure};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::rate::LineRate;

/// Protocols for ALPN (RFC 7301), the preferred one first.
const ALPN: [&[u8]; 3] = [b"h2", b"http/1.1", b"http/1.0"];

/// Bytes of refused early data that are skipped (RFC 8446 section 4.2.10), as rustls 0.23 counts them: a record that it skips stays in its
/// buffer, and is counted again with each one behind it. Sixteen KiB in records of 1 KiB, as much as clients send, come to 136 KiB.
const SKIPPED_EARLY_DATA_BYTES: u32 = 512 * 1024;

/// The TLS of one listener.
pub struct ServerTls {
    /// The place in the configuration, for messages: `listeners[0].tls`.
    path: String,
    files: ListenerTls,
    /// Lives as long as the process, so that a client that returns is spared a full handshake after a reload, too.
    tickets: Arc<dyn ProducesTickets>,
    inner: ArcSwap<InForce>,
    /// The names under which metrics show the certificates in use.
    names: Mutex<Vec<String>>,
    /// Rates of the log's lines about handshakes that failed, in the order of [`TlsFailure::ALL`].
    rates: Box<[LineRate]>,
}

/// A connection after its handshake.
pub struct Accepted {
    /// The encrypted connection.
    pub transport: Transport,
    /// Whether the client chose HTTP/2.
    pub is_http2: bool,
    /// The version of TLS.
    pub version: HandshakeVersion,
    /// Whether a session went on.
    pub resumed: HandshakeResumed,
}

/// A configuration of rustls, and the certificates that it chooses from.
struct InForce {
    config: Arc<ServerConfig>,
    resolver: Arc<Resolver>,
}

/// The same with all that metrics show of the certificates.
struct Built {
    in_force: InForce,
    certificates: Vec<Certificate>,
}

impl ServerTls {
    /// Returns how many handshakes failed for this reason and are not in the log, if one may be now.
    #[must_use]
    pub fn permits_line(&self, reason: TlsFailure, now: Millis) -> Option<u64> {
        let mut rates = TlsFailure::ALL.iter().zip(&self.rates);
        rates.find(|(one, _)| **one == reason).and_then(|(_, rate)| rate.permit(now))
    }

    /// Returns the answer to a request in plain text.
    #[must_use]
    pub fn plain_http(&self) -> PlainHttp {
        self.files.plain_http
    }

    /// Returns the place of this TLS in the configuration, for messages.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Performs the handshake.
    ///
    /// # Errors
    /// If the client leaves, speaks no TLS, or none that is accepted; an alert has been sent then.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Accepted, HandshakeFailure> {
        let in_force = self.inner.load_full();
        let stream = TlsAcceptor::from(Arc::clone(&in_force.config)).accept(tcp).await;
        let stream = stream.map_err(|error| HandshakeFailure::of(&error, None))?;
        let tls = stream.get_ref().1;
        let is_http2 = tls.alpn_protocol() == ALPN.first().copied();
        let version = match tls.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => HandshakeVersion::Tls12,
            _ => HandshakeVersion::Tls13,
        };
        let resumed = match tls.handshake_kind() {
            Some(HandshakeKind::Resumed) => HandshakeResumed::Yes,
            _ => HandshakeResumed::No,
        };
        let certificates: Arc<Resolver> = Arc::clone(&in_force.resolver);
        Ok(Accepted { transport: Transport::tls(stream, Some(certificates)), is_http2, version, resumed })
    }

    /// Returns the parts of a client's certificate that endpoints are told.
    #[must_use]
    pub fn certificate_parts(&self) -> &[CertificatePart] {
        self.files.client_auth.as_ref().map(|auth| &*auth.forward).unwrap_or_default()
    }

    /// Returns the files that this TLS is read from.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let pairs = self.files.certificates.iter();
        let pairs = pairs.flat_map(|pair| [pair.cert_file.file.clone(), pair.key_file.file.clone()]);
        let authorities = self.files.client_auth.iter().map(|auth| auth.ca_file.file.clone());
        let ticket_keys = self.files.ticket_keys.iter().map(|key| key.file.clone());
        pairs.chain(authorities).chain(ticket_keys)
    }

    /// Removes the certificates from the metrics: the TLS is no longer in use. Those that `next` has, too, stay.
    pub fn forget(&self, next: &[Arc<ServerTls>], metrics: &Metrics) {
        let others = next.iter().filter(|one| !std::ptr::eq(&***one, self));
        let kept: Vec<String> = others.flat_map(|one| one.names.lock().clone()).collect();
        for gone in self.names.lock().drain(..).filter(|name| !kept.contains(name)) {
            metrics.certificates.not_after.remove(&gone);
        }
    }

    /// Reads the files again; the TLS before stays in use if one of them cannot be used.
    ///
    /// # Errors
    /// Names the first file that cannot be used.
    pub fn reload(&self, metrics: &Metrics) -> Result<(), TlsError> {
        let Built { in_force, certificates } = build(&self.path, &self.files, &self.tickets)?;
        self.inner.store(Arc::new(in_force));
        self.show(&certificates, metrics);
        Ok(())
    }

    /// Shows the certificates in use in the metrics, and no others of this listener.
    fn show(&self, certificates: &[Certificate], metrics: &Metrics) {
        let mut names = self.names.lock();
        let new: Vec<String> = certificates.iter().map(|one| one.name.clone()).collect();
        for gone in names.iter().filter(|name| !new.contains(name)) {
            metrics.certificates.not_after.remove(gone);
        }
        for certificate in certificates {
            metrics.certificates.not_after.set(&certificate.name, certificate.not_after);
        }
        *names = new;
    }
}

/// The TLS of one listener with certificates that are not shown in the metrics until it is in use.
pub struct LoadedTls {
    tls: Arc<ServerTls>,
    /// `None` if the TLS was in use before.
    certificates: Option<Vec<Certificate>>,
}

impl std::fmt::Debug for LoadedTls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LoadedTls").field("path", &self.tls.path).finish_non_exhaustive()
    }
}

impl LoadedTls {
    /// Returns the TLS.
    #[must_use]
    pub fn tls(&self) -> Arc<ServerTls> {
        Arc::clone(&self.tls)
    }

    /// Shows the certificates in the metrics: the TLS is in use from now on.
    pub fn show(&self, metrics: &Metrics) {
        if let Some(certificates) = &self.certificates {
            self.tls.show(certificates, metrics);
        }
    }
}

/// Reads the TLS files of a listener, the `index`th of the configuration; returns `None` if it has no TLS.
///
/// No file is read if the listener had the same TLS `before`. Session tickets of clients stay valid in any case.
///
/// # Errors
/// Names the first file that cannot be used.
pub fn load(
    index: usize,
    listener: &Listener,
    before: Option<&Arc<ServerTls>>,
) -> Result<Option<LoadedTls>, TlsError> {
    let Some(files) = &listener.tls else { return Ok(None) };
    if let Some(before) = before.filter(|before| before.files == *files) {
        return Ok(Some(LoadedTls { tls: Arc::clone(before), certificates: None }));
    }
    let path = format!("listeners[{index}].tls");
    let tickets = match before {
        Some(before) => Arc::clone(&before.tickets),
        None => aws_lc_rs::Ticketer::new().map_err(|error| TlsError::Random(error.to_string()))?,
    };
    let Built { in_force, certificates } = build(&path, files, &tickets)?;
    let inner = ArcSwap::from_pointee(in_force);
    let rates = TlsFailure::ALL.iter().map(|_| LineRate::default()).collect();
    let tls = ServerTls { path, files: files.clone(), tickets, inner, names: Mutex::default(), rates };
    Ok(Some(LoadedTls { tls: Arc::new(tls), certificates: Some(certificates) }))
}

fn build(path: &str, files: &ListenerTls, tickets: &Arc<dyn ProducesTickets>) -> Result<Built, TlsError> {
    let provider = provider();
    let mut certificates = Vec::with_capacity(files.certificates.len());
    for (index, pair) in files.certificates.iter().enumerate() {
        certificates.push(certificate::read(&format!("{path}.certificates[{index}]"), pair, &provider)?);
    }
    let versions: &[&'static rustls::SupportedProtocolVersion] = match files.min_version {
        TlsVersion::V1_2 => &[&version::TLS13, &version::TLS12],
        TlsVersion::V1_3 => &[&version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions);
    let builder = builder.map_err(|error| TlsError::File {
        at: files.at,
        path: path.to_owned(),
        error: error.to_string(),
    })?;
    let resolver = Arc::new(Resolver::new(&certificates));
    let authorities = |auth: &ClientAuth| certificate::authorities(path, "clientAuth.caFile", &auth.ca_file);
    let clients = files.client_auth.as_ref().map(|auth| Ok((auth, authorities(auth)?))).transpose()?;
    let mut config = match &clients {
        None => builder.with_no_client_auth(),
        Some((auth, authorities)) => {
            let verifier = certificate::verifier(path, auth, authorities, provider)?;
            builder.with_client_cert_verifier(verifier)
        }
    }
    .with_cert_resolver(Arc::<Resolver>::clone(&resolver));
    config.alpn_protocols = ALPN.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = match &clients {
        clients if !files.ticket_keys.is_empty() => {
            let trust =
                clients.as_ref().map(|(auth, authorities)| (auth.required, &*authorities.certificates));
            Arc::new(SharedTickets::read(path, &files.ticket_keys, trust)?)
        }
        None => Arc::clone(tickets),
        // A client that is no longer trusted must not resume a session by an old ticket.
        Some(_) => aws_lc_rs::Ticketer::new().map_err(|error| TlsError::Random(error.to_string()))?,
    };
    // With tickets that the server keeps no record of, rustls accepts no early data whatever the number, and offers none.
    config.max_early_data_size = SKIPPED_EARLY_DATA_BYTES;
    let in_force = InForce { config: Arc::new(config), resolver };
    Ok(Built { in_force, certificates })
}

/// The choice of a certificate by the name in the client's hello.
#[derive(Debug)]
struct Resolver {
    /// By DNS name as certificates write it, wildcards included; in the configuration's order.
    named: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// All, in the configuration's order.
    all: Vec<Arc<CertifiedKey>>,
}

impl Resolver {
    fn new(certificates: &[Certificate]) -> Resolver {
        let mut named: HashMap<String, Vec<Arc<CertifiedKey>>> = HashMap::new();
        for certificate in certificates {
            for name in &certificate.dns_names {
                named.entry(name.clone()).or_default().push(Arc::clone(&certificate.key));
            }
        }
        Resolver { named, all: certificates.iter().map(|one| Arc::clone(&one.key)).collect() }
    }

    /// Returns the certificates for `name`: exact ones first, then those of the wildcard one label up (RFC 6125 section
    /// 6.4.3).
    fn matching(&self, name: &str) -> impl Iterator<Item = &Arc<CertifiedKey>> {
        let name = without_root(name).to_ascii_lowercase();
        let wildcard = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let exact = self.named.get(&name);
        let wide = wildcard.and_then(|wildcard| self.named.get(&wildcard));
        exact.into_iter().chain(wide).flatten()
    }
}

impl CertificateNames for Resolver {
    fn covers(&self, server_name: &str, host: &str) -> bool {
        if without_root(server_name).eq_ignore_ascii_case(without_root(host)) {
            return true;
        }
        let mut shown = self.matching(server_name).peekable();
        let default = if shown.peek().is_none() { self.all.first() } else { None };
        let shown: Vec<_> = shown.chain(default).collect();
        self.matching(host).any(|key| shown.iter().any(|one| Arc::ptr_eq(one, key)))
    }
}

/// Returns a name without the dot of the DNS's root.
fn without_root(name: &str) -> &str {
    name.trim_end_matches('.')
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = hello.server_name().and_then(|name| self.matching(name).find(usable));
        // A client that names none of them, or can verify none of those for its name, gets the first that it can verify;
        // with none at all, the handshake fails with the alert for that.
        named.or_else(|| self.all.iter().find(usable)).or(self.all.first()).map(Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::{ClientConfig, ClientConnection, ServerConnection};

    use super::*;
    use crate::testing::tls_listener;

    /// Writes a certificate for `name` with its key.
    fn write(directory: &Path, name: &str) {
        write_for(directory, &[name]);
    }

    fn write_for(directory: &Path, names: &[&str]) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        std::fs::write(directory.join("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    }

    fn listener(directory: &Path) -> Listener {
        tls_listener(directory, "")
    }

    /// Returns a certificate for these names.
    fn issued(directory: &Path, names: &[&str]) -> Certificate {
        write_for(directory, names);
        let listener = listener(directory);
        let pair = &listener.tls.as_ref().unwrap().certificates[0];
        certificate::read("tls", pair, &provider()).unwrap()
    }

    fn shown(metrics: &Metrics, name: &str) -> bool {
        let text = String::from_utf8(metrics.render()).unwrap();
        text.contains(&format!("podpin_tls_certificate_not_after_seconds{{name=\"{name}\"}}"))
    }

    #[test]
    fn metrics_show_the_certificates_in_use_and_no_others() {
        let (directory, metrics) = (tempfile::tempdir().unwrap(), Metrics::new("0").unwrap());
        write(directory.path(), "one.example");
        let listener = listener(directory.path());
        let loaded = load(0, &listener, None).unwrap().unwrap();
        assert!(!shown(&metrics, "one.example"), "not in use yet");
        loaded.show(&metrics);
        assert!(shown(&metrics, "one.example"));
        write(directory.path(), "two.example");
        loaded.tls().reload(&metrics).unwrap();
        assert!(!shown(&metrics, "one.example") && shown(&metrics, "two.example"));
        loaded.tls().forget(&[], &metrics);
        assert!(!shown(&metrics, "two.example"));
    }

    #[test]
    fn the_same_files_keep_the_tls_and_broken_ones_keep_it_in_use() {
        let (directory, metrics) = (tempfile::tempdir().unwrap(), Metrics::new("0").unwrap());
        write(directory.path(), "one.example");
        let listener = listener(directory.path());
        let tls = load(0, &listener, None).unwrap().unwrap().tls();
        let again = load(0, &listener, Some(&tls)).unwrap().unwrap().tls();
        assert!(Arc::ptr_eq(&tls, &again));
        let in_use = tls.inner.load_full();
        std::fs::write(directory.path().join("key.pem"), "no key").unwrap();
        let error = tls.reload(&metrics).unwrap_err();
        assert!(error.to_string().starts_with("listeners[0].tls.certificates[0].keyFile:"), "{error}");
        assert!(Arc::ptr_eq(&in_use, &tls.inner.load_full()));
    }

    /// Passes bytes between the two until neither has any.
    fn exchange(client: &mut ClientConnection, server: &mut ServerConnection) {
        while client.wants_write() || server.wants_write() {
            let (mut sent, mut answered) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut sent).unwrap();
            }
            // A record at a time, as they come over a slow network.
            for mut piece in sent.chunks(1100) {
                while !piece.is_empty() {
                    server.read_tls(&mut piece).unwrap();
                    server.process_new_packets().unwrap();
                }
            }
            while server.wants_write() {
                server.write_tls(&mut answered).unwrap();
            }
            let mut answered = &answered[..];
            while !answered.is_empty() {
                client.read_tls(&mut answered).unwrap();
                client.process_new_packets().unwrap();
            }
        }
    }

    #[test]
    fn early_data_is_skipped_and_never_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let issued = issued(directory.path(), &["a.test"]);
        let provider = provider();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(issued.key.cert[0].clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder =
            builder.with_protocol_versions(&[&version::TLS13]).unwrap().with_root_certificates(roots);
        let mut client_config = builder.with_no_client_auth();
        client_config.enable_early_data = true;
        let client_config = Arc::new(client_config);
        let connect =
            || ClientConnection::new(Arc::clone(&client_config), "a.test".try_into().unwrap()).unwrap();
        // Another server of the name, which takes early data, gives the client a ticket.
        let builder =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13]);
        let resolver = Resolver::new(std::slice::from_ref(&issued));
        let mut other = builder.unwrap().with_no_client_auth().with_cert_resolver(Arc::new(resolver));
        other.max_early_data_size = 1 << 20;
        let (mut client, mut server) = (connect(), ServerConnection::new(Arc::new(other)).unwrap());
        exchange(&mut client, &mut server);
        let ours = load(0, &listener(directory.path()), None).unwrap().unwrap().tls().inner.load_full();
        let (mut client, mut server) = (connect(), ServerConnection::new(Arc::clone(&ours.config)).unwrap());
        for _ in 0..16 {
            client.early_data().unwrap().write_all(&[b'x'; 1024]).unwrap();
            // Each is a record of its own.
            client.early_data().unwrap().flush().unwrap();
        }
        exchange(&mut client, &mut server);
        assert!(!client.is_handshaking() && !server.is_handshaking() && !client.is_early_data_accepted());
        client.writer().write_all(b"again").unwrap();
        exchange(&mut client, &mut server);
        let mut text = [0; 8];
        assert_eq!((server.reader().read(&mut text).unwrap(), &text[..5]), (5, &b"again"[..]));
    }

    #[test]
    fn a_host_belongs_on_the_connection_if_the_certificate_shown_there_is_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let certificates: Vec<Certificate> = [
            &["first.test", "also.test"][..],
            &["a.test", "b.test", "*.wide.test"],
            &["*.test"],
            &["b.test"],
        ]
        .iter()
        .map(|names| issued(directory.path(), names))
        .collect();
        let resolver = Resolver::new(&certificates);
        let table = [
            ("a.test", "a.test", true),
            ("a.test", "A.Test.", true),
            ("a.test", "b.test", true),
            ("a.test", "x.wide.test", true),
            ("a.test", "x.y.wide.test", false),
            ("a.test", "wide.test", true),
            ("a.test", "first.test", true),
            ("a.test", "other.example", false),
            ("x.wide.test", "a.test", true),
            ("x.wide.test", "c.test", false),
            ("c.test", "d.test", true),
            ("c.test", "a.test", true),
            ("c.test", "x.wide.test", false),
            // The first certificate is for those whose name no other has.
            ("stranger.example", "stranger.example", true),
            ("stranger.example", "also.test", true),
            ("stranger.example", "a.test", false),
            ("stranger.example", "other.example", false),
            ("first.test", "also.test", true),
        ];
        for (server_name, host, expected) in table {
            assert_eq!(resolver.covers(server_name, host), expected, "{host} at {server_name}");
        }
        assert!(!Resolver::new(&[]).covers("a.test", "b.test"));
    }

    #[test]
    fn an_exact_name_wins_over_a_wildcard_which_stands_for_one_label() {
        let directory = tempfile::tempdir().unwrap();
        let names = ["*.example", "a.example"];
        let certificates: Vec<Certificate> =
            names.iter().map(|name| issued(directory.path(), &[name])).collect();
        let resolver = Resolver::new(&certificates);
        let found = |name: &str| -> Vec<usize> {
            let keys = resolver.matching(name);
            keys.map(|key| certificates.iter().position(|one| Arc::ptr_eq(&one.key, key)).unwrap()).collect()
        };
        assert_eq!(found("A.example."), [1, 0]);
        assert_eq!(found("b.example"), [0]);
        assert!(found("c.b.example").is_empty() && found("example").is_empty());
    }
}
