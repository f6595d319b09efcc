//! How the certificates of endpoints are verified, or not.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme, client,
};
use x509_parser::der_parser::asn1_rs::Any;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::net::tls::failure::note_refused;
use crate::net::tls::provider::provider;

/// Verifies a chain to one of the authorities, and the name. As OpenSSL does, a certificate that stands among the authorities
/// itself is trusted as it is: what `openssl req -x509` makes is an authority and the certificate of a server in one.
#[derive(Debug)]
pub(super) struct Authorized {
    chains: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl Authorized {
    /// Returns the verifier for these authorities; `trusted` are those of a file.
    ///
    /// # Errors
    /// If there are no authorities.
    pub(super) fn new(roots: RootCertStore, trusted: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        let chains = builder.build().map_err(|error| error.to_string())?;
        Ok(Authorized { chains, trusted })
    }
}

impl ServerCertVerifier for Authorized {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = if self.trusted.iter().any(|one| one == end_entity) {
            verify_itself(end_entity, server_name, now)
        } else {
            self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        verified.map_err(|error| {
            note_refused(end_entity);
            explained(error, end_entity)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.chains.verify_tls12_signature(message, certificate, signature);
        verified.inspect_err(|_| note_refused(certificate))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.chains.verify_tls13_signature(message, certificate, signature);
        verified.inspect_err(|_| note_refused(certificate))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Verifies certificates of clients, and says which one was refused. One that stands among the authorities itself is trusted as it is.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    /// The verifier of chains.
    pub chains: Arc<dyn ClientCertVerifier>,
    /// The certificates of the file.
    pub trusted: Vec<CertificateDer<'static>>,
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chains.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chains.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = if self.trusted.iter().any(|one| one == end_entity) {
            verify_validity(end_entity, now).map(|()| ClientCertVerified::assertion())
        } else {
            self.chains.verify_client_cert(end_entity, intermediates, now)
        };
        verified.inspect_err(|_| note_refused(end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.chains.verify_tls12_signature(message, certificate, signature);
        verified.inspect_err(|_| note_refused(certificate))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.chains.verify_tls13_signature(message, certificate, signature);
        verified.inspect_err(|_| note_refused(certificate))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Verifies name and validity of a certificate that is trusted without a chain.
fn verify_itself(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    verify_validity(certificate, now)?;
    client::verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name)?;
    Ok(ServerCertVerified::assertion())
}

/// Verifies that a certificate is valid at this moment.
fn verify_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let malformed = |_| Error::from(CertificateError::BadEncoding);
    let (_, facts) = X509Certificate::from_der(certificate).map_err(malformed)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now > facts.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    if now < facts.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    Ok(())
}

/// Faults of a certificate in more words than the library has.
#[derive(Debug, thiserror::Error)]
enum Shortcoming {
    #[error("the certificate has a common name and no subject alternative name")]
    CommonNameOnly,
    #[error("the certificate is of X.509 version 1, without subject alternative names")]
    Version1,
}

/// Returns the error in words that say what to do about the certificate.
fn explained(error: Error, certificate: &CertificateDer<'_>) -> Error {
    let Error::InvalidCertificate(cause) = &error else { return error };
    let Ok((_, facts)) = X509Certificate::from_der(certificate) else { return error };
    let names_nothing = facts.subject_alternative_name().is_ok_and(|names| names.is_none());
    let is_name =
        matches!(cause, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. });
    let shortcoming = match facts.version().0 {
        0 => Shortcoming::Version1,
        _ if is_name && names_nothing => Shortcoming::CommonNameOnly,
        _ => return error,
    };
    CertificateError::Other(OtherError(Arc::new(shortcoming))).into()
}

/// Bits of RSA keys from which on the provider verifies signatures.
const RSA_BITS_MIN: usize = 2048;

/// Signatures that the provider cannot verify, and endpoints of `verify: false` may make all the same: RSASSA-PSS with keys for nothing else,
/// Ed448, and those with SHA-1.
const UNVERIFIED_SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::Unknown(0x0809),
    SignatureScheme::Unknown(0x080a),
    SignatureScheme::Unknown(0x080b),
    SignatureScheme::ED448,
    SignatureScheme::ECDSA_SHA1_Legacy,
    SignatureScheme::RSA_PKCS1_SHA1,
];

/// The verifier of `verify: false`: any certificate of any name, version and kind of key. The endpoint has to prove that it has the
/// key where the provider can verify that; where it cannot, nothing is lost, since a certificate of another kind is made as easily.
#[derive(Debug)]
pub(super) struct AnyCertificate(pub(super) Arc<CryptoProvider>);

impl AnyCertificate {
    /// Verifies a signature by the key of a certificate that is not looked at otherwise.
    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let malformed = || Error::from(CertificateError::BadEncoding);
        let (_, facts) = X509Certificate::from_der(certificate).map_err(|_| malformed())?;
        let key = facts.public_key();
        // SubjectPublicKeyInfo is a sequence that begins with the sequence of the algorithm.
        let (_, outer) = Any::from_der(key.raw).map_err(|_| malformed())?;
        let (_, algorithm) = Any::from_der(outer.data).map_err(|_| malformed())?;
        let supported = self.0.signature_verification_algorithms.mapping.iter();
        let of_scheme = supported.filter(|(scheme, _)| *scheme == signature.scheme);
        let of_key = of_scheme
            .flat_map(|(_, algorithms)| *algorithms)
            .filter(|one| one.public_key_alg_id().as_ref() == algorithm.data);
        let mut tried = of_key
            .map(|one| one.verify_signature(&key.subject_public_key.data, message, signature.signature()));
        let mut is_supported = false;
        let is_valid = tried.by_ref().inspect(|_| is_supported = true).any(|verified| verified.is_ok());
        let is_verifiable = match key.parsed() {
            Ok(PublicKey::RSA(key)) => key.key_size() >= RSA_BITS_MIN,
            _ => is_supported,
        };
        if is_verifiable && is_supported && !is_valid {
            return Err(CertificateError::BadSignature.into());
        }
        Ok(HandshakeSignatureValid::assertion())
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.0.signature_verification_algorithms.supported_schemes();
        schemes.extend(UNVERIFIED_SCHEMES);
        schemes
    }
}
