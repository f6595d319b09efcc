//! The subject of a certificate as text (RFC 4514).

use rustls::pki_types::CertificateDer;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Returns the subject of a client's certificate as RFC 4514 writes it, the most specific name first; `None` if it has none.
///
/// Letters that could be taken for the beginning of another part are escaped.
#[must_use]
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
