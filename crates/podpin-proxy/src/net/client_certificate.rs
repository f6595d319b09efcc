//! The certificate of a client in the words in which endpoints are told of it.
//!
//! Names are those of RFC 4514, certificates those of RFC 9440: byte sequences of RFC 8941, base64 between colons.

use std::fmt::Write as _;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use podpin_config::CertificatePart;
use podpin_wire::client::ClientCertificate;
use podpin_wire::distinguished_name::distinguished_name;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Returns these parts of the certificates that a client has shown, its own first; `None` if there are none.
#[must_use]
pub fn describe(shown: &[CertificateDer<'_>], parts: &[CertificatePart]) -> Option<Box<ClientCertificate>> {
    let (own, others) = shown.split_first()?;
    let parsed = X509Certificate::from_der(own).ok().map(|(_, certificate)| certificate);
    let mut told = ClientCertificate::default();
    for part in parts {
        match part {
            CertificatePart::Subject => {
                told.subject = parsed.as_ref().map(|parsed| distinguished_name(parsed.subject()));
            }
            CertificatePart::Issuer => {
                told.issuer = parsed.as_ref().map(|parsed| distinguished_name(parsed.issuer()));
            }
            CertificatePart::SubjectAltNames => told.subject_alt_names = parsed.as_ref().map(alternatives),
            CertificatePart::Fingerprint => told.fingerprint = Some(fingerprint(own)),
            CertificatePart::Certificate => told.certificate = Some(byte_sequence(own)),
            CertificatePart::Chain => {
                told.chain = Some(others.iter().map(|der| byte_sequence(der)).collect::<Vec<_>>().join(", "));
            }
        }
    }
    Some(Box::new(told))
}

fn byte_sequence(der: &[u8]) -> String {
    format!(":{}:", STANDARD.encode(der))
}

fn fingerprint(der: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(der) {
        // Writing to a string cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    text
}

/// Returns the subject alternative names as `type:value`, joined by `, `. Names of other types are left out.
fn alternatives(certificate: &X509Certificate<'_>) -> String {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    let mut text = String::new();
    for name in names {
        let (kind, value) = match name {
            GeneralName::DNSName(name) => ("DNS", encoded(name)),
            GeneralName::URI(name) => ("URI", encoded(name)),
            GeneralName::RFC822Name(name) => ("email", encoded(name)),
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(address) => ("IP", address.to_string()),
                None => continue,
            },
            _ => continue,
        };
        let separator = if text.is_empty() { "" } else { ", " };
        text.extend([separator, kind, ":", &value]);
    }
    text
}

/// Percent-encodes everything but visible ASCII, and what could be taken for the beginning of another name or for the end of this one
/// by a reader that splits at commas or semicolons or takes off quotes.
fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b',' | b';' | b'"' | b'\\' | 0..=b' ' | 0x7f.. => {
                let _written = write!(text, "%{byte:02X}");
            }
            byte => text.push(char::from(byte)),
        }
    }
    text
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A certificate that signs itself, for these names.
    fn certificate(names: Vec<rcgen::SanType>) -> CertificateDer<'static> {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.subject_alt_names = names;
        let key = rcgen::KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn names_cannot_be_taken_for_others() {
        let names = [
            rcgen::SanType::DnsName("a.test,DNS:root".try_into().unwrap()),
            rcgen::SanType::URI("spiffe://a/b%2C\"x".try_into().unwrap()),
            rcgen::SanType::Rfc822Name("a b@test".try_into().unwrap()),
            rcgen::SanType::IpAddress("192.0.2.7".parse().unwrap()),
            rcgen::SanType::IpAddress("2001:db8::7".parse().unwrap()),
        ];
        let told = describe(&[certificate(names.into())], &[CertificatePart::SubjectAltNames]).unwrap();
        let expected =
            "DNS:a.test%2CDNS:root, URI:spiffe://a/b%2C%22x, email:a%20b@test, IP:192.0.2.7, IP:2001:db8::7";
        assert_eq!(told.subject_alt_names.as_deref(), Some(expected));
        assert_eq!((told.subject, told.certificate), (None, None), "nobody asked for it");
    }

    #[test]
    fn certificates_are_byte_sequences_and_the_clients_own_is_no_part_of_the_chain() {
        let shown = [vec![0, 1, 0xff], vec![2], vec![3]].map(CertificateDer::from);
        let parts = [CertificatePart::Certificate, CertificatePart::Chain, CertificatePart::Fingerprint];
        let told = describe(&shown, &parts).unwrap();
        assert_eq!(told.certificate.as_deref(), Some(":AAH/:"));
        assert_eq!(told.chain.as_deref(), Some(":Ag==:, :Aw==:"));
        // Computed by another implementation (Python's hashlib).
        let hash = "26a66b061e8f48f39927c312f25293959729eee95978e2892d49d3512a5cc092";
        assert_eq!(told.fingerprint.as_deref(), Some(hash));
        let alone = describe(&shown[..1], &parts).unwrap();
        assert_eq!(alone.chain.as_deref(), Some(""), "no field of it is written");
        assert_eq!(describe(&[], &parts), None);
    }

    proptest! {
        #[test]
        fn a_certificate_of_any_bytes_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let parts = [CertificatePart::Subject, CertificatePart::Issuer, CertificatePart::SubjectAltNames];
            prop_assert!(describe(&[CertificateDer::from(bytes)], &parts).is_some());
        }

        #[test]
        fn names_of_any_letters_stay_one_value(name in ".{0,20}") {
            let written = encoded(&name);
            prop_assert!(written.bytes().all(|byte| byte.is_ascii_graphic() && !b",;\"\\".contains(&byte)));
        }
    }
}
