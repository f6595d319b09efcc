//! All that a log says of a certificate: subject, issuer, validity, names.

use podpin_wire::distinguished_name::distinguished_name;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Names of a certificate that are written out.
const NAMES_MAX: usize = 5;

/// Returns the subject, issuer, validity and names of a certificate in words.
#[must_use]
pub fn description(certificate: &CertificateDer<'_>) -> String {
    let Ok((_, facts)) = X509Certificate::from_der(certificate) else {
        return "the certificate is malformed".to_owned();
    };
    let names = dns_names(&facts);
    let more = if names.len() > NAMES_MAX { ", ..." } else { "" };
    let names = names.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    let date = |time: &x509_parser::time::ASN1Time| match jiff::Timestamp::from_second(time.timestamp()) {
        Ok(time) => time.to_string(),
        Err(_) => "an impossible time".to_owned(),
    };
    let (from, until) = (date(&facts.validity().not_before), date(&facts.validity().not_after));
    let (subject, issuer) = (distinguished_name(facts.subject()), distinguished_name(facts.issuer()));
    let named = if names.is_empty() { String::new() } else { format!(", for {names}{more}") };
    format!("certificate of \"{subject}\" by \"{issuer}\", valid from {from} until {until}{named}")
}

/// Returns the DNS names of a certificate, in lower case.
#[must_use]
pub fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let dns_names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    dns_names.collect()
}
