//! Certificates and keys in PEM files, and what is wrong with those that hold none.

use std::path::Path;

use podpin_config::read_file;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Bytes of a file: the authorities of a distribution have 200 KB.
pub(super) const FILE_BYTES_MAX: u64 = 4 << 20;
/// The first byte of a SEQUENCE, with which each certificate and key in DER begins.
const SEQUENCE: u8 = 0x30;

/// Returns the certificates in a file, at least one.
///
/// # Errors
/// Says what is wrong with the file.
pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(file)?;
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let number = certificates.len() + 1;
        let certificate = certificate
            .map_err(|error| format!("certificate {number} is not one in PEM: {}", words(&error)))?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(format!("no certificate in it{}", advice(&text)));
    }
    Ok(certificates)
}

/// Returns the private key in a file.
///
/// # Errors
/// Says what is wrong with the file.
pub(super) fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = read(file)?;
    if has_password(&text) {
        let advice = "the key has a password; write it without one (`openssl pkey -in with -out without`)";
        return Err(advice.to_owned());
    }
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| format!("not a private key in PEM: {}{}", words(&error), advice(&text)))
}

/// Reads a file that TLS needs.
///
/// # Errors
/// Says why it cannot be read.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, String> {
    read_file(file, FILE_BYTES_MAX).map_err(|error| error.to_string())
}

/// Returns whether the key in a PEM file is encrypted (RFC 7468 section 11, RFC 1421).
fn has_password(pem: &[u8]) -> bool {
    let has = |words: &[u8]| pem.windows(words.len()).any(|window| window == words);
    has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED")
}

/// Returns the way out for a file of another format.
fn advice(bytes: &[u8]) -> &'static str {
    match bytes.first() {
        Some(&SEQUENCE) => {
            "; DER or PKCS #12 as it seems, which has to be turned into PEM (`openssl x509`, `openssl pkcs12`)"
        }
        _ => "",
    }
}

/// Returns an error of the PEM reader, which prints bytes as numbers, in words.
fn words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("-----END {}----- is missing", String::from_utf8_lossy(end_marker).escape_debug())
        }
        pem::Error::IllegalSectionStart { line } => {
            format!("a line is no beginning of a section: {}", String::from_utf8_lossy(line).escape_debug())
        }
        pem::Error::NoItemsFound => "no key in it".to_owned(),
        error => error.to_string(),
    }
}
