//! The certificate that all proxies of a run show, and clients that trust it.
//!
//! ECDSA on P-256, signed by an authority that is made for the run: what public authorities sign by default today. All
//! proxies get the same files, so that none signs with a cheaper key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

use crate::protocol::Protocol;

/// The name of every proxy; clients ask for it in the handshake and in each request.
pub(crate) const HOST: &str = "bench.test";

/// Whether clients have been there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visit {
    /// No client keeps a ticket: each handshake is a full one.
    First,
    /// Clients keep tickets and come back with them (RFC 8446 section 2.2).
    Return,
}

/// Certificate and key as files, and the authority that clients trust.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    directory: PathBuf,
    authorities: Arc<RootCertStore>,
}

impl Certificate {
    /// Makes a certificate and its authority, and writes the certificate's files to `directory`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn make(directory: &Path) -> anyhow::Result<Self> {
        let mut of_authority = CertificateParams::new(Vec::new())?;
        // By the same name as the certificate it would look as if that had signed itself.
        of_authority.distinguished_name = DistinguishedName::new();
        of_authority.distinguished_name.push(DnType::CommonName, "an authority for one benchmark");
        of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate()?;
        let mut authorities = RootCertStore::empty();
        authorities.add(of_authority.self_signed(&authority_key)?.der().clone())?;

        let key = KeyPair::generate()?;
        let issuer = Issuer::new(of_authority, authority_key);
        let signed = CertificateParams::new(vec![HOST.to_owned()])?.signed_by(&key, &issuer)?;
        let made = Self { directory: directory.to_owned(), authorities: Arc::new(authorities) };
        let (chain, key) = (signed.pem(), key.serialize_pem());
        for (path, text) in
            [(made.chain(), &chain), (made.key(), &key), (made.both(), &format!("{chain}{key}"))]
        {
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(made)
    }

    /// The file of the certificate, in PEM.
    pub(crate) fn chain(&self) -> PathBuf {
        self.directory.join("bench.crt")
    }

    /// The file of its key, in PEM.
    pub(crate) fn key(&self) -> PathBuf {
        self.directory.join("bench.key")
    }

    /// Both in one file, as HAProxy wants them.
    pub(crate) fn both(&self) -> PathBuf {
        self.directory.join("bench.pem")
    }

    /// A client with TLS 1.3 that trusts it and offers one version of HTTP. What it keeps for its return is its own: a
    /// ticket of one proxy is never shown to another.
    ///
    /// # Errors
    /// When the TLS library lacks TLS 1.3.
    pub(crate) fn client(&self, protocol: Protocol, visit: Visit) -> anyhow::Result<TlsConnector> {
        let mut config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(Arc::clone(&self.authorities))
            .with_no_client_auth();
        let offered = if protocol.is_h2() { "h2" } else { "http/1.1" };
        config.alpn_protocols = vec![offered.into()];
        if visit == Visit::First {
            config.resumption = Resumption::disabled();
        }
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{HandshakeKind, ServerConfig};

    use super::*;
    use crate::client::target::Target;

    /// Shakes hands by the files of a certificate and answers whatever is asked.
    async fn serve(listener: TcpListener, made: Certificate) {
        let chain = vec![CertificateDer::from_pem_file(made.chain()).unwrap()];
        let key = PrivateKeyDer::from_pem_file(made.key()).unwrap();
        let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec!["h2".into(), "http/1.1".into()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            stream.write_all(b"ok").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    }

    async fn visit(target: &Target) -> Option<HandshakeKind> {
        let (mut wire, kind) = target.connect_and_tell().await.unwrap();
        let mut answer = String::new();
        wire.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "ok");
        kind
    }

    #[tokio::test]
    async fn only_a_client_that_returns_is_spared_the_full_handshake() {
        let directory = tempfile::tempdir().unwrap();
        let made = Certificate::make(directory.path()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = |wanted| Target {
            address,
            protocol: Protocol::Http1Tls,
            tls: Some(made.client(Protocol::Http1Tls, wanted).unwrap()),
        };
        let (first, back) = (target(Visit::First), target(Visit::Return));
        let server = tokio::spawn(serve(listener, made));
        for _ in 0..2 {
            assert_eq!(visit(&first).await, Some(HandshakeKind::Full));
        }
        assert_eq!(visit(&back).await, Some(HandshakeKind::Full));
        assert_eq!(visit(&back).await, Some(HandshakeKind::Resumed));
        server.abort();
    }
}
