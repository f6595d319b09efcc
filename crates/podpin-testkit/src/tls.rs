//! TLS for tests: an authority with its certificates in files, and a client that trusts it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion, version,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::client::Connection;
use crate::h2_client::H2Connection;
use crate::in_time;

/// Returns a server with a certificate and a key in PEM as they are, whatever is wrong with them, for these versions.
///
/// # Panics
/// When they are not PEM.
pub fn acceptor_of(
    certificate: &str,
    key: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let key = aws_lc_rs::sign::any_supported_type(&key).expect("a key of a known kind");
    let pair = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
    let builder = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(versions)
        .expect("versions");
    TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_cert_resolver(Arc::new(pair))))
}

/// A certificate authority; the files of its certificates live as long as it does.
#[derive(Debug)]
pub struct Authority {
    directory: TempDir,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

impl Authority {
    /// A new one, with its own certificate in `ca.pem`.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        // By the same name as its certificates it would look as if they had signed themselves.
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "an authority for tests");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Strict clients (Python's, from 3.13 on) insist on what RFC 5280, section 4.2.1, asks of an authority.
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key).expect("an authority");
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).expect("a file");
        let certificate = certificate.der().clone();
        Authority { directory, certificate, issuer: Issuer::new(parameters, key) }
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A certificate for `names` and its key, in PEM.
    ///
    /// # Panics
    /// When a name is none.
    pub fn sign(&self, names: &[&str]) -> (String, String) {
        self.sign_for_years(names, (1975, 4096))
    }

    /// The same, valid from the beginning of one year to that of another.
    ///
    /// # Panics
    /// When a name is none.
    pub fn sign_for_years(&self, names: &[&str], (from, until): (i32, i32)) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).expect("names");
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
        parameters.use_authority_key_identifier_extension = true;
        let signed = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        (signed.pem(), key.serialize_pem())
    }

    /// Writes a certificate for `names` to `{file}.crt` and its key to `{file}.key`.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn issue(&self, file: &str, names: &[&str]) {
        let (certificate, key) = self.sign(names);
        std::fs::write(self.file(&format!("{file}.crt")), certificate).expect("a file");
        std::fs::write(self.file(&format!("{file}.key")), key).expect("a file");
    }

    /// A pair that was issued, as an entry of `certificates`.
    pub fn entry(&self, file: &str) -> String {
        let path = |end: &str| self.file(&format!("{file}.{end}")).display().to_string();
        format!("{{certFile: \"{}\", keyFile: \"{}\"}}", path("crt"), path("key"))
    }

    /// A server with a certificate of its own for `names`; with `clients`, for clients whose certificates those signed.
    ///
    /// # Panics
    /// When a name is none.
    pub fn acceptor(&self, names: &[&str], clients: Option<&Authority>) -> TlsAcceptor {
        let (certificate, key) = self.sign(names);
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let builder = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.certificate.clone()).expect("an authority");
                let provider = aws_lc_rs::default_provider().into();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate], key).expect("a pair")))
    }

    /// A client that trusts it and offers these protocols.
    pub fn client(&self, protocols: &[&str]) -> TlsClient {
        self.client_of(protocols, &[&version::TLS13, &version::TLS12], None)
    }

    /// A client that speaks TLS 1.2 and nothing newer.
    pub fn old_client(&self) -> TlsClient {
        self.client_of(&[], &[&version::TLS12], None)
    }

    /// A client with a certificate for `name`, signed by `authority`, whose own it shows, too.
    pub fn client_with_certificate(&self, authority: &Authority, name: &str) -> TlsClient {
        self.client_of(&[], &[&version::TLS13], Some((authority, name)))
    }

    /// A client with this certificate and key, in PEM.
    ///
    /// # Panics
    /// When they are not PEM.
    pub fn client_with_pair(&self, certificate: &str, key: &str) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("an authority");
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&version::TLS13])
            .expect("versions")
            .with_root_certificates(roots);
        let config = builder.with_client_auth_cert(vec![certificate], key).expect("a pair");
        TlsClient { config: Arc::new(config) }
    }

    fn client_of(
        &self,
        protocols: &[&str],
        versions: &[&'static SupportedProtocolVersion],
        own: Option<(&Authority, &str)>,
    ) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("an authority");
        let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((authority, name)) => {
                let (chain, key) = authority.client_pair(name);
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsClient { config: Arc::new(config) }
    }

    fn client_pair(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let signed = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (vec![signed.der().clone(), self.certificate.clone()], private)
    }
}

/// A client of TLS.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

impl TlsClient {
    /// Connects and shakes hands as a client of `name`.
    ///
    /// # Errors
    /// Why there was no handshake.
    ///
    /// # Panics
    /// If no server listens.
    pub async fn try_connect(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> Result<TlsStream<TcpStream>, std::io::Error> {
        let tcp = in_time("connecting", TcpStream::connect(address)).await.expect("a connection");
        tcp.set_nodelay(true).expect("TCP_NODELAY");
        self.try_over(tcp, name).await
    }

    /// Shakes hands as a client of `name` over a connection that has said something already.
    ///
    /// # Errors
    /// Why there was no handshake.
    pub async fn try_over(&self, tcp: TcpStream, name: &str) -> Result<TlsStream<TcpStream>, std::io::Error> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        in_time("a TLS handshake", TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp)).await
    }

    /// The first record of a handshake for `name`: a ClientHello.
    ///
    /// # Panics
    /// When the name is none.
    pub fn hello(&self, name: &str) -> Vec<u8> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name).expect("a connection");
        let mut record = Vec::new();
        connection.write_tls(&mut record).expect("memory");
        record
    }

    /// As [`TlsClient::try_connect`], for HTTP/1.1.
    ///
    /// # Panics
    /// When there is no handshake.
    pub async fn connect(&self, address: SocketAddr, name: &str) -> Connection {
        Connection::over_tls(self.try_connect(address, name).await.expect("a handshake"))
    }

    /// As [`TlsClient::try_connect`], for HTTP/2.
    ///
    /// # Panics
    /// When there is no handshake.
    pub async fn h2(&self, address: SocketAddr, name: &str) -> H2Connection {
        H2Connection::over(self.try_connect(address, name).await.expect("a handshake")).await
    }
}
