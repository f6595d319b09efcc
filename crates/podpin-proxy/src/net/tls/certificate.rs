//! One certificate with its key, out of two PEM files, checked.

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
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::net::tls::error::TlsError;

/// A usable certificate.
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    pub private: PrivateKeyDer<'static>,
    /// What it is for, in lower case, wildcards included.
    pub dns_names: Vec<String>,
    /// The first of them, or the file's name.
    pub name: String,
    /// Unix seconds.
    pub not_after: i64,
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
    let (dns_names, not_after) = facts(first).map_err(cert_fault)?;
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

/// Its DNS names, and when it expires.
pub fn facts(der: &CertificateDer<'_>) -> Result<(Vec<String>, i64), String> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| format!("not a certificate: {error}"))?;
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let dns_names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok((dns_names.collect(), certificate.validity().not_after.timestamp()))
}

/// What checks the certificates of clients.
///
/// # Errors
/// Names the file of the authorities.
pub fn verifier(
    path: &str,
    auth: &ClientAuth,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let at_fault = |error: String| fault(path, "clientAuth.caFile", &auth.ca_file, &error);
    let (roots, _) = authorities(path, "clientAuth.caFile", &auth.ca_file)?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if auth.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| at_fault(error.to_string()))
}

/// Reads the authorities in a file, at least one.
///
/// # Errors
/// Names the file.
pub fn authorities(
    path: &str,
    key: &str,
    file: &FileAt,
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsError> {
    let at_fault = |error: String| fault(path, key, file, &error);
    let pem = fs::read(&file.file).map_err(|error| at_fault(error.to_string()))?;
    let all: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|error| at_fault(format!("not a certificate in PEM: {error}")))?;
    if all.is_empty() {
        return Err(at_fault("no certificate in it".to_owned()));
    }
    let mut roots = RootCertStore::empty();
    for certificate in &all {
        roots.add(certificate.clone()).map_err(|error| at_fault(error.to_string()))?;
    }
    Ok((roots, all))
}

/// The subject of a client's certificate as RFC 4514 writes it, the most specific name first. Whatever could be taken
/// for another part of it is escaped.
pub fn subject(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut parts = Vec::new();
    for attribute in certificate.subject().iter_attributes() {
        let kind = oid2abbrev(attribute.attr_type(), oid_registry())
            .map_or_else(|_| attribute.attr_type().to_id_string(), str::to_owned);
        let mut part = format!("{kind}=");
        for letter in attribute.as_str().ok()?.chars() {
            if matches!(letter, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' | '#' | ' ') {
                part.push('\\');
            }
            part.push(letter);
        }
        parts.push(part);
    }
    parts.reverse();
    Some(parts.join(",")).filter(|subject| !subject.is_empty())
}

fn file_name(file: &Path) -> String {
    file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned()
}

/// What is wrong with one file.
pub fn fault(path: &str, key: &str, at: &FileAt, error: &str) -> TlsError {
    TlsError::File {
        at: at.at,
        path: format!("{path}.{key}"),
        error: format!("{}: {error}", at.file.display()),
    }
}
