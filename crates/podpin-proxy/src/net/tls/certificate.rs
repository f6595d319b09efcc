//! A certificate with its key, read from two PEM files and checked.

use std::path::Path;
use std::sync::Arc;

use podpin_config::{CertificateFiles, ClientAuth, FileAt};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use x509_parser::der_parser::Oid;
use x509_parser::objects::{oid_registry, oid2description};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::net::certificate_text::{description, dns_names};
use crate::net::tls::error::TlsError;
use crate::net::tls::failure::fault_of;
use crate::net::tls::pem;
use crate::net::tls::verifier::ClientVerifier;

/// Bytes of authorities' names that fit into a handshake beside the other extensions.
const AUTHORITY_NAMES_BYTES_MAX: usize = 60_000;

/// Bytes of the certificates of a chain: clients end a handshake with a longer message (rustls and Go from 64 KiB on, OpenSSL from 100).
const CHAIN_BYTES_MAX: usize = 60_000;
/// Keys that the provider signs with.
const SUPPORTED_KEYS: &str = "ECDSA on P-256, P-384 and P-521, Ed25519, and RSA of 2048 to 8192 bits";

/// A usable certificate.
pub struct Certificate {
    /// The chain with its signing key.
    pub key: Arc<CertifiedKey>,
    /// The private key.
    pub private: PrivateKeyDer<'static>,
    /// The names that the certificate is for, in lower case, wildcards included.
    pub dns_names: Vec<String>,
    /// The first of the names, or that of the file if there is none.
    pub name: String,
    /// The end of its validity in Unix seconds.
    pub not_after: i64,
}

/// The parts of a certificate that the proxy looks at.
pub struct CertificateFacts {
    /// The DNS names, in lower case.
    pub dns_names: Vec<String>,
    /// The beginning of its validity in Unix seconds.
    pub not_before: i64,
    /// The end of its validity in Unix seconds.
    pub not_after: i64,
}

/// Authorities of one file.
pub struct Authorities {
    /// The certificates as roots of trust.
    pub roots: RootCertStore,
    /// The certificates.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Reads and checks a pair; `path` is its place in the configuration.
///
/// # Errors
/// Names the file at fault.
pub fn read(path: &str, pair: &CertificateFiles, provider: &CryptoProvider) -> Result<Certificate, TlsError> {
    let cert_fault = |error: String| fault(path, "certFile", &pair.cert_file, &error);
    let key_fault = |error: String| fault(path, "keyFile", &pair.key_file, &error);
    let chain = pem::certificates(&pair.cert_file.file).map_err(cert_fault)?;
    check_chain(&chain).map_err(cert_fault)?;
    let Some(first) = chain.first() else { return Err(cert_fault("no certificate in it".to_owned())) };
    let CertificateFacts { dns_names, not_before, not_after } = facts(first).map_err(cert_fault)?;
    let now = jiff::Timestamp::now().as_second();
    if !(not_before..=not_after).contains(&now) {
        // In use all the same: a clock may be wrong, and without it the listener would serve no client.
        tracing::warn!(
            file = %pair.cert_file.file.display(),
            "{} is not valid now: {}",
            format_args!("{path}.certFile"),
            description(first)
        );
    }
    let key = pem::private_key(&pair.key_file.file).map_err(key_fault)?;
    let kind = key_kind(first);
    let place = place_of(&key, &chain, provider);
    let certified =
        CertifiedKey::from_der(chain, key.clone_key(), provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => match place {
                Some(place) => cert_fault(format!(
                    "the certificate of the key is number {place} in the file, and has to be the first"
                )),
                None => key_fault(format!("not the key of {}", pair.cert_file.file.display())),
            },
            rustls::Error::InvalidCertificate(error) => cert_fault(fault_of(&error)),
            _ => key_fault(format!("{kind} is not supported; {SUPPORTED_KEYS} are")),
        })?;
    let name = dns_names.first().cloned().unwrap_or_else(|| file_name(&pair.cert_file.file));
    Ok(Certificate { key: Arc::new(certified), private: key, dns_names, name, not_after })
}

/// Checks that clients can take a chain: each certificate, and all of them together.
fn check_chain(chain: &[CertificateDer<'static>]) -> Result<(), String> {
    for (index, certificate) in chain.iter().enumerate() {
        facts(certificate).map_err(|error| format!("certificate {}: {error}", index + 1))?;
    }
    let bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
    if bytes > CHAIN_BYTES_MAX {
        let count = chain.len();
        return Err(format!(
            "{count} certificates of {bytes} bytes together; clients take {CHAIN_BYTES_MAX} at most in a handshake"
        ));
    }
    Ok(())
}

/// Returns the kind of key that a certificate is for, in words.
fn key_kind(certificate: &CertificateDer<'_>) -> String {
    let Ok((_, facts)) = X509Certificate::from_der(certificate) else { return "its key".to_owned() };
    let info = facts.public_key();
    let named = |oid: &Oid<'_>| match (oid2description(oid, oid_registry()), &*oid.to_id_string()) {
        (Ok(name), _) => name.to_owned(),
        (Err(_), "1.3.132.0.10") => "secp256k1".to_owned(),
        (Err(_), "1.3.132.0.33") => "secp224r1".to_owned(),
        (Err(_), number) => number.to_owned(),
    };
    let parameters = info.algorithm.parameters.as_ref();
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA of {} bits", key.key_size()),
        Ok(PublicKey::EC(_)) => match parameters.and_then(|curve| curve.as_oid().ok()) {
            Some(curve) => format!("ECDSA on the curve {}", named(&curve)),
            None => "ECDSA on a curve without a name".to_owned(),
        },
        _ => format!("a key of the kind {}", named(&info.algorithm.algorithm)),
    }
}

/// Returns the place of the certificate in a chain, from 1 on, that `key` is the key of; `None` if it is that of none.
fn place_of(
    key: &PrivateKeyDer<'static>,
    chain: &[CertificateDer<'static>],
    provider: &CryptoProvider,
) -> Option<usize> {
    let is_of = |certificate: &CertificateDer<'static>| {
        CertifiedKey::from_der(vec![certificate.clone()], key.clone_key(), provider).is_ok()
    };
    chain.iter().position(is_of).map(|index| index + 1)
}

/// Parses a certificate.
///
/// # Errors
/// Says why the bytes are no certificate.
pub fn facts(der: &CertificateDer<'_>) -> Result<CertificateFacts, String> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| format!("not a certificate: {error}"))?;
    Ok(CertificateFacts {
        dns_names: dns_names(&certificate),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    })
}

/// Builds the verifier of client certificates, which are signed by one of the `authorities`.
///
/// # Errors
/// Names the file of the authorities.
pub fn verifier(
    path: &str,
    auth: &ClientAuth,
    authorities: &Authorities,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let at_fault = |error: String| fault(path, "clientAuth.caFile", &auth.ca_file, &error);
    let roots = authorities.roots.clone();
    // A list that is too long for its field fails every handshake (RFC 8446 section 4.2.4).
    let length: usize = roots.subjects().iter().map(|name| name.as_ref().len() + 2).sum();
    let is_advertised = auth.advertise && length <= AUTHORITY_NAMES_BYTES_MAX;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if is_advertised { builder } else { builder.clear_root_hint_subjects() };
    let builder = if auth.required { builder } else { builder.allow_unauthenticated() };
    let verifier = builder.build().map_err(|error| at_fault(error.to_string()))?;
    Ok(Arc::new(ClientVerifier { chains: verifier, trusted: authorities.certificates.clone() }))
}

/// Reads the authorities in a file, at least one.
///
/// # Errors
/// Names the file.
pub fn authorities(path: &str, key: &str, file: &FileAt) -> Result<Authorities, TlsError> {
    let at_fault = |error: String| fault(path, key, file, &error);
    let certificates = pem::certificates(&file.file).map_err(at_fault)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| at_fault(error.to_string()))?;
    }
    Ok(Authorities { roots, certificates })
}

fn file_name(file: &Path) -> String {
    file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned()
}

/// Returns the error of one file.
#[must_use]
pub fn fault(path: &str, key: &str, at: &FileAt, error: &str) -> TlsError {
    TlsError::File {
        at: at.at,
        path: format!("{path}.{key}"),
        error: format!("{}: {error}", at.file.display()),
    }
}

#[cfg(test)]
mod tests {
    use podpin_config::CertificatePart;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    use super::*;
    use crate::net::client_certificate::describe;
    use crate::net::tls::provider::provider;
    use crate::testing::tls_listener;

    /// Reads a pair out of these files of a directory.
    fn read_pair(directory: &Path, certificate: &str, key: &str) -> Result<Certificate, String> {
        std::fs::write(directory.join("cert.pem"), certificate).unwrap();
        std::fs::write(directory.join("key.pem"), key).unwrap();
        let tls = tls_listener(directory, "").tls.unwrap();
        read("tls", &tls.certificates[0], &provider()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_wrong_with_a_pair_is_said_in_words_that_help() {
        let directory = tempfile::tempdir().unwrap();
        let made = || {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let ((one, key), (other, _)) = (made(), made());
        let read = |certificate: &str, key: &str| read_pair(directory.path(), certificate, key);
        assert!(read(&(one.clone() + &other), &key).is_ok());
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let table = [
            (other.clone() + &one, &*key, "number 2 in the file"),
            (one.clone() + garbage, &key, "certificate 2: not a certificate"),
            (
                one.clone() + "-----BEGIN CERTIFICATE-----\nAAAA\n",
                &key,
                "certificate 2 is not one in PEM: -----END CERTIFICATE-----",
            ),
            (one.repeat(300), &key, "clients take 60000 at most"),
            ("0\u{1}\u{2}".to_owned(), &key, "turned into PEM"),
            (other, &key, "not the key of"),
            (one.clone(), encrypted, "has a password"),
            (one, "", "not a private key in PEM"),
            (String::new(), &key, "no certificate in it"),
        ];
        for (certificate, key, words) in table {
            let error = read(&certificate, key).err().unwrap();
            assert!(error.contains(words) && error.contains(".pem"), "{words} is not in {error}");
        }
    }

    #[test]
    fn names_of_authorities_that_fit_into_no_handshake_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
        };
        let more = format!(", clientAuth: {{caFile: {}}}", file.display());
        let auth = tls_listener(directory.path(), &more).tls.unwrap().client_auth.unwrap();
        let told = |advertise| {
            let auth = ClientAuth { advertise, ..auth.clone() };
            let authorities = authorities("tls", "clientAuth.caFile", &auth.ca_file).unwrap();
            let verifier = verifier("tls", &auth, &authorities, provider()).unwrap();
            verifier.root_hint_subjects().len()
        };
        std::fs::write(&file, authority("one") + &authority("two")).unwrap();
        assert_eq!((told(true), told(false)), (2, 0));
        let long = "x".repeat(20_000);
        std::fs::write(&file, ["a", "b", "c"].map(|name| authority(&(long.clone() + name))).concat())
            .unwrap();
        assert_eq!(told(true), 0);
    }

    #[test]
    fn facts_and_subject_of_a_certificate_are_escaped_and_in_lower_case() {
        let mut params = CertificateParams::new(vec!["A.Example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "a, CN=root");
        params.distinguished_name.push(DnType::CommonName, "client");
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        assert_eq!(facts(&der).unwrap().dns_names, ["a.example"]);
        let told = describe(std::slice::from_ref(&der), &[CertificatePart::Subject]).unwrap();
        let subject = told.subject.unwrap();
        assert!(subject.contains(r"O=a\, CN\=root") && !subject.contains("CN=root"), "{subject}");
        assert!(facts(&CertificateDer::from(vec![1, 2, 3])).is_err());
    }
}
