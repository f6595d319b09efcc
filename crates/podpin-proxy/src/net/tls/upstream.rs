//! TLS towards the endpoints of a service: the authorities to trust, the name to verify, the certificate to show.
//!
//! The files are read and checked at the start, and again when one changes. Our own connections shake hands here; Pingora's
//! (upgrades, health checks) are given the same settings.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use podpin_config::{PodTls as Files, Service};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore, version};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::net::tls::certificate::{self, Certificate};
use crate::net::tls::error::TlsError;
use crate::net::tls::failure::HandshakeFailure;
use crate::net::tls::pem;
use crate::net::tls::provider::provider;
use crate::net::tls::verifier::{AnyCertificate, Authorized};
use crate::net::transport::Transport;

/// The TLS to the endpoints of one service.
pub struct UpstreamTls {
    config: Arc<ClientConfig>,
    /// The name to verify; `None` if the endpoint's address is sent, unverified.
    name: Option<UpstreamName>,
    verify: bool,
    /// The authorities as Pingora has them; `None` if those of the system are trusted.
    authorities: Option<Arc<CaType>>,
    /// Our certificate as Pingora has it.
    shown: Option<Arc<CertKey>>,
    /// The number that keeps idle connections apart from those of services that trust others.
    group: u64,
    /// A digest of the files' contents.
    digest: u64,
}

/// A server name, as text and parsed.
struct UpstreamName {
    text: String,
    parsed: ServerName<'static>,
}

/// The certificates that verify an endpoint, for rustls and for Pingora.
struct Trusted {
    roots: RootCertStore,
    /// The certificates of the file; none if those of the system are trusted.
    trusted: Vec<CertificateDer<'static>>,
    /// `None` if those of the system are trusted.
    authorities: Option<Arc<CaType>>,
}

/// The place of a service's TLS in the configuration, for errors.
struct Place<'a> {
    path: &'a str,
    files: &'a Files,
}

impl Place<'_> {
    /// Returns the error that names a key below the place, such as `.caFile`.
    fn fault(&self, key: &str, error: impl Into<String>) -> TlsError {
        TlsError::File { at: self.files.at, path: format!("{}{key}", self.path), error: error.into() }
    }
}

impl std::fmt::Debug for UpstreamTls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("UpstreamTls").field("group", &self.group).finish_non_exhaustive()
    }
}

/// The next `group`; none is used twice, whatever reloads bring.
static GROUPS: AtomicU64 = AtomicU64::new(1);

impl UpstreamTls {
    /// Reads the files of a service; returns `None` if it has no TLS.
    ///
    /// # Errors
    /// Names the first file that cannot be used.
    pub fn load(service: &Service) -> Result<Option<Arc<UpstreamTls>>, TlsError> {
        let Some(files) = &service.tls else { return Ok(None) };
        let path = format!("services.{}.tls", service.name);
        let (group, digest) = (GROUPS.fetch_add(1, Ordering::Relaxed), digest(files));
        let provider = provider();
        let place = Place { path: &path, files };
        let name = files.server_name.as_ref().map(|name| server_name(&place, name)).transpose()?;
        let trusted = trusted(&place)?;
        let authorities = trusted.authorities.clone();
        let pair = files.certificate.as_ref();
        let pair = pair.map(|pair| certificate::read(&path, pair, &provider)).transpose()?;
        let shown = pair.as_ref().map(|pair| cert_key(&place, pair)).transpose()?.map(Arc::new);
        let config = Arc::new(client_config(&place, trusted, pair, provider)?);
        Ok(Some(Arc::new(UpstreamTls {
            config,
            name,
            verify: files.verify,
            authorities,
            shown,
            group,
            digest,
        })))
    }

    /// Returns whether the files still have the contents that were read.
    #[must_use]
    pub fn is_current(&self, files: &Files) -> bool {
        digest(files) == self.digest
    }

    /// Returns the number of the group within which idle connections may be reused.
    #[must_use]
    pub fn group(&self) -> u64 {
        self.group
    }

    /// Performs the handshake.
    ///
    /// # Errors
    /// If the endpoint closes, speaks no TLS, or does not verify.
    pub async fn connect(&self, tcp: TcpStream, address: SocketAddr) -> Result<Transport, HandshakeFailure> {
        let name = match &self.name {
            Some(name) => name.parsed.clone(),
            None => ServerName::from(address.ip()),
        };
        match TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await {
            Ok(stream) => Ok(Transport::tls(stream, None)),
            Err(error) => {
                Err(HandshakeFailure::of(&error, self.name.as_ref().map(|name| name.text.as_str())))
            }
        }
    }

    /// Gives a peer of Pingora the same settings; `otherwise` is the name to send if there is none to verify.
    pub fn apply(&self, peer: &mut HttpPeer, otherwise: String) {
        // Without a name Pingora verifies nothing; podpin-config requires one wherever `verify` is on.
        peer.sni = self.name.as_ref().map_or(otherwise, |name| name.text.clone());
        peer.options.verify_cert = self.verify;
        peer.options.verify_hostname = self.verify;
        peer.options.ca.clone_from(&self.authorities);
        peer.client_cert_key.clone_from(&self.shown);
        peer.group_key = self.group;
    }
}

/// Returns the files that a service's TLS is read from.
pub fn files(tls: &Files) -> impl Iterator<Item = &PathBuf> {
    let pair = tls.certificate.iter().flat_map(|pair| [&pair.cert_file, &pair.key_file]);
    tls.ca_file.iter().chain(pair).map(|file| &file.file)
}

/// Returns a digest of the contents of all files, in their order.
fn digest(tls: &Files) -> u64 {
    let mut hasher = DefaultHasher::new();
    // A file that cannot be read is an error where its contents are needed.
    files(tls).for_each(|file| pem::read(file).ok().hash(&mut hasher));
    hasher.finish()
}

fn server_name(place: &Place<'_>, name: &str) -> Result<UpstreamName, TlsError> {
    let parsed = ServerName::try_from(name.to_owned());
    let parsed = parsed.map_err(|error| place.fault(".serverName", format!("{name}: {error}")))?;
    Ok(UpstreamName { text: name.to_owned(), parsed })
}

fn trusted(place: &Place<'_>) -> Result<Trusted, TlsError> {
    let Some(file) = &place.files.ca_file else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(place.fault(".caFile", "missing, and this system has no authorities of its own"));
        }
        return Ok(Trusted { roots, trusted: Vec::new(), authorities: None });
    };
    let certificate::Authorities { roots, certificates } =
        certificate::authorities(place.path, "caFile", file)?;
    let mut wrapped = Vec::with_capacity(certificates.len());
    for der in &certificates {
        // Pingora's own parser panics on a malformed certificate.
        certificate::facts(der).map_err(|error| certificate::fault(place.path, "caFile", file, &error))?;
        wrapped.push(WrappedX509::new(der.to_vec(), parse_x509));
    }
    Ok(Trusted { roots, trusted: certificates, authorities: Some(Arc::from(wrapped)) })
}

/// Returns our certificate as Pingora has it.
fn cert_key(place: &Place<'_>, pair: &Certificate) -> Result<CertKey, TlsError> {
    let key = pair.private.secret_der().to_vec();
    PrivateKeyDer::try_from(key.as_slice()).map_err(|error| place.fault(".keyFile", error))?;
    for der in &pair.key.cert {
        certificate::facts(der).map_err(|error| place.fault(".certFile", error))?;
    }
    let chain = pair.key.cert.iter().map(|der| der.to_vec()).collect();
    Ok(CertKey::new(chain, key))
}

fn client_config(
    place: &Place<'_>,
    Trusted { roots, trusted, .. }: Trusted,
    pair: Option<Certificate>,
    provider: Arc<CryptoProvider>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| place.fault("", error.to_string()))?;
    let verifier: Arc<dyn ServerCertVerifier> = if place.files.verify {
        Arc::new(Authorized::new(roots, trusted).map_err(|error| place.fault(".caFile", error))?)
    } else {
        Arc::new(AnyCertificate(provider))
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.key))),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
