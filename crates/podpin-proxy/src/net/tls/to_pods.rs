//! TLS towards the pods of a service: whom to trust, by which name, and what to show.
//!
//! Read and checked at the start, and again when a file changes. Event streams shake hands here; Pingora does for ordinary requests and health checks
//! and is told the same.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use podpin_config::{PodTls as Files, Service};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, version};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::net::tls::certificate::{self, Certificate};
use crate::net::tls::error::TlsError;
use crate::net::transport::Transport;

/// The TLS to the pods of one service.
pub struct PodTls {
    config: Arc<ClientConfig>,
    /// `None`: the pod's address, unchecked.
    name: Option<(String, ServerName<'static>)>,
    verify: bool,
    /// For Pingora; `None`: what the system trusts.
    authorities: Option<Arc<CaType>>,
    shown: Option<Arc<CertKey>>,
    /// Tells its connections from those of services that trust others, among those that are kept.
    group: u64,
    /// Of what the files held.
    digest: u64,
}

/// The next `group`: no two are alike, whatever reloads bring.
static GROUPS: AtomicU64 = AtomicU64::new(1);

impl PodTls {
    /// Reads the files of a service, if it has TLS.
    ///
    /// # Errors
    /// Names the first file that cannot be used.
    pub fn load(service: &Service) -> Result<Option<Arc<PodTls>>, TlsError> {
        let Some(files) = &service.tls else { return Ok(None) };
        let path = format!("services.{}.tls", service.name);
        let (group, digest) = (GROUPS.fetch_add(1, Ordering::Relaxed), digest(files));
        let provider = Arc::new(ring::default_provider());
        let name = files.server_name.as_ref().map(|name| server_name(&path, files, name)).transpose()?;
        let (roots, authorities) = trusted(&path, files)?;
        let pair = files.certificate.as_ref();
        let pair = pair.map(|pair| certificate::read(&path, pair, &provider)).transpose()?;
        let shown = pair.as_ref().map(|pair| cert_key(&path, files, pair)).transpose()?;
        let config = client_config(&path, files, (roots, pair), provider)?;
        let (config, shown) = (Arc::new(config), shown.map(Arc::new));
        Ok(Some(Arc::new(PodTls { config, name, verify: files.verify, authorities, shown, group, digest })))
    }

    /// Whether the files still hold what was read from them.
    pub fn is_current(&self, files: &Files) -> bool {
        digest(files) == self.digest
    }

    /// Tells connections that trust the same from others.
    pub fn group(&self) -> u64 {
        self.group
    }

    /// The handshake.
    ///
    /// # Errors
    /// When the pod leaves, speaks no TLS, or is not who it should be.
    pub async fn connect(&self, tcp: TcpStream, address: SocketAddr) -> io::Result<Transport> {
        let name = match &self.name {
            Some((_, name)) => name.clone(),
            None => ServerName::from(address.ip()),
        };
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await?;
        Ok(Transport::tls(stream))
    }

    /// Tells Pingora; `otherwise` is the name when there is none to check.
    pub fn apply(&self, peer: &mut HttpPeer, otherwise: String) {
        // Without a name Pingora checks nothing; the configuration has one wherever anything is checked.
        peer.sni = self.name.as_ref().map_or(otherwise, |(name, _)| name.clone());
        peer.options.verify_cert = self.verify;
        peer.options.verify_hostname = self.verify;
        peer.options.ca.clone_from(&self.authorities);
        peer.client_cert_key.clone_from(&self.shown);
        peer.group_key = self.group;
    }
}

/// The files that a service's TLS is read from.
pub fn files(tls: &Files) -> impl Iterator<Item = &PathBuf> {
    let pair = tls.certificate.iter().flat_map(|pair| [&pair.cert_file, &pair.key_file]);
    tls.ca_file.iter().chain(pair).map(|file| &file.file)
}

/// Of all that is in the files, in their order.
fn digest(tls: &Files) -> u64 {
    let mut hasher = DefaultHasher::new();
    // A file that cannot be read is told of by whoever needs what is in it.
    files(tls).for_each(|file| fs::read(file).ok().hash(&mut hasher));
    hasher.finish()
}

fn fault(path: &str, files: &Files, key: &str, error: impl Into<String>) -> TlsError {
    TlsError::File { at: files.at, path: format!("{path}{key}"), error: error.into() }
}

fn server_name(path: &str, files: &Files, name: &str) -> Result<(String, ServerName<'static>), TlsError> {
    let parsed = ServerName::try_from(name.to_owned());
    let parsed = parsed.map_err(|error| fault(path, files, ".serverName", format!("{name}: {error}")))?;
    Ok((name.to_owned(), parsed))
}

/// The authorities, for us and for Pingora.
fn trusted(path: &str, files: &Files) -> Result<(RootCertStore, Option<Arc<CaType>>), TlsError> {
    let Some(file) = &files.ca_file else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(fault(
                path,
                files,
                ".caFile",
                "missing, and this system has no authorities of its own",
            ));
        }
        return Ok((roots, None));
    };
    let (roots, certificates) = certificate::authorities(path, "caFile", file)?;
    let mut wrapped = Vec::with_capacity(certificates.len());
    for der in certificates {
        // Pingora's own reading of it would panic.
        certificate::facts(&der).map_err(|error| certificate::fault(path, "caFile", file, &error))?;
        wrapped.push(WrappedX509::new(der.to_vec(), parse_x509));
    }
    Ok((roots, Some(Arc::from(wrapped))))
}

/// Our certificate, for Pingora.
fn cert_key(path: &str, files: &Files, pair: &Certificate) -> Result<CertKey, TlsError> {
    let key = pair.private.secret_der().to_vec();
    PrivateKeyDer::try_from(key.as_slice()).map_err(|error| fault(path, files, ".keyFile", error))?;
    for der in &pair.key.cert {
        certificate::facts(der).map_err(|error| fault(path, files, ".certFile", error))?;
    }
    let chain = pair.key.cert.iter().map(|der| der.to_vec()).collect();
    Ok(CertKey::new(chain, key))
}

fn client_config(
    path: &str,
    files: &Files,
    (roots, pair): (RootCertStore, Option<Certificate>),
    provider: Arc<CryptoProvider>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| fault(path, files, "", error.to_string()))?;
    let builder = if files.verify {
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    };
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.key))),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// `verify: false`: any certificate of any name. That the pod has its key is checked.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
