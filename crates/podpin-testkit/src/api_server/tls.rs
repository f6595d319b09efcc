//! A certificate authority for one test, and the server certificate that it signed.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority that only its own server and the kubeconfig know.
pub(super) struct Authority {
    certificate: String,
}

impl Authority {
    /// A new one, and the TLS of a server on 127.0.0.1 that it vouches for.
    pub(super) fn new() -> (Authority, ServerConfig) {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("a certificate authority");
        let issuer = Issuer::from_params(&parameters, &key);

        let server_key = KeyPair::generate().expect("a key");
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let server = CertificateParams::new(names).expect("names");
        let signed = server.signed_by(&server_key, &issuer).expect("a server certificate");
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
        let configuration = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![signed.der().clone()], private)
            .expect("the certificate and its key");
        (Authority { certificate: certificate.pem() }, configuration)
    }

    /// Returns the server's own certificate in PEM.
    pub(super) fn certificate(&self) -> &str {
        &self.certificate
    }
}
