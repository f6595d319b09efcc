//! A certificate with its key, read from two PEM files and checked.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use podpin_config::{CertificateFiles, ClientAuth, FileAt};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::net::tls::error::TlsError;

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
    let pem = fs::read(&pair.cert_file.file).map_err(|error| cert_fault(error.to_string()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| cert_fault(format!("not a certificate in PEM: {error}")))?;
    let Some(first) = chain.first() else { return Err(cert_fault("no certificate in it".to_owned())) };
    let CertificateFacts { dns_names, not_after } = facts(first).map_err(cert_fault)?;
    let pem = fs::read(&pair.key_file.file).map_err(|error| key_fault(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| key_fault(format!("not a private key in PEM: {error}")))?;
    let certified =
        CertifiedKey::from_der(chain, key.clone_key(), provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                key_fault(format!("not the key of {}", pair.cert_file.file.display()))
            }
            rustls::Error::InvalidCertificate(error) => cert_fault(error.to_string()),
            error => key_fault(error.to_string()),
        })?;
    let name = dns_names.first().cloned().unwrap_or_else(|| file_name(&pair.cert_file.file));
    Ok(Certificate { key: Arc::new(certified), private: key, dns_names, name, not_after })
}

/// Parses a certificate.
///
/// # Errors
/// Says why the bytes are no certificate.
pub fn facts(der: &CertificateDer<'_>) -> Result<CertificateFacts, String> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| format!("not a certificate: {error}"))?;
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let dns_names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok(CertificateFacts {
        dns_names: dns_names.collect(),
        not_after: certificate.validity().not_after.timestamp(),
    })
}

/// Builds the verifier of client certificates.
///
/// # Errors
/// Names the file of the authorities.
pub fn verifier(
    path: &str,
    auth: &ClientAuth,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let at_fault = |error: String| fault(path, "clientAuth.caFile", &auth.ca_file, &error);
    let roots = authorities(path, "clientAuth.caFile", &auth.ca_file)?.roots;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if auth.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| at_fault(error.to_string()))
}

/// Reads the authorities in a file, at least one.
///
/// # Errors
/// Names the file.
pub fn authorities(path: &str, key: &str, file: &FileAt) -> Result<Authorities, TlsError> {
    let at_fault = |error: String| fault(path, key, file, &error);
    let pem = fs::read(&file.file).map_err(|error| at_fault(error.to_string()))?;
    let certificates: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(&pem).collect();
    let certificates =
        certificates.map_err(|error| at_fault(format!("not a certificate in PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(at_fault("no certificate in it".to_owned()));
    }
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
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::net::client_certificate::describe;

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
