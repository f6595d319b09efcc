//! Why a handshake failed: a reason of a closed list for metrics, and words for the logs.
//!
//! The library says what is wrong with a certificate and not which one it was. The verifiers leave a description behind, on the
//! thread that they run on; the handshake fails in the same turn of its task.

use std::cell::RefCell;
use std::io;

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, Error, OtherError, PeerIncompatible};

use crate::net::certificate_text::description;
use crate::telemetry::labels::TlsFailure;

thread_local! {
    /// Description of the certificate that a verifier of this thread refused last.
    static REFUSED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A handshake that failed.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub struct HandshakeFailure {
    /// The reason, as metrics have it.
    pub reason: TlsFailure,
    /// The reason in words, with the certificate that was refused.
    words: String,
}

impl HandshakeFailure {
    /// Returns the failure of a handshake that ended with `error`; `asked_for` is the name that the certificate was to be for.
    #[must_use]
    pub fn of(error: &io::Error, asked_for: Option<&str>) -> HandshakeFailure {
        let refused = REFUSED.take();
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let Some(inner) = inner else {
            return HandshakeFailure {
                reason: TlsFailure::Closed,
                words: format!("no TLS handshake: {error}"),
            };
        };
        let mut words = format!("no TLS handshake: {}", words_of(inner));
        if let (Error::InvalidCertificate(_), Some(refused)) = (inner, refused) {
            words = format!("{words}; {refused}");
            if let Some(name) = asked_for {
                words = format!("{words}; asked for {name}");
            }
        }
        HandshakeFailure { reason: reason(inner), words }
    }
}

impl HandshakeFailure {
    /// Returns the failure of a handshake of which there are words only.
    #[must_use]
    pub fn in_words(words: String) -> HandshakeFailure {
        HandshakeFailure { reason: TlsFailure::Other, words }
    }
}

/// Leaves a description of a certificate that is refused for the failure of its handshake.
pub(super) fn note_refused(certificate: &CertificateDer<'_>) {
    REFUSED.set(Some(description(certificate)));
}

/// Returns an error in words.
fn words_of(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => format!("invalid peer certificate: {}", fault_of(error)),
        error => error.to_string(),
    }
}

/// Returns what is wrong with a certificate in words, also where the library prints its own fields.
pub(super) fn fault_of(error: &CertificateError) -> String {
    let cause = match error {
        CertificateError::Other(OtherError(cause)) => cause.to_string(),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "UnsupportedSignatureAlgorithm".to_owned()
        }
        error => return error.to_string(),
    };
    let words = match &*cause {
        "CaUsedAsEndEntity" => "the certificate is that of an authority",
        "UnsupportedCertVersion" => "the certificate is of X.509 version 1 or 2; version 3 is needed",
        "UnsupportedCriticalExtension" => "the certificate has a critical extension that is not known",
        "UnsupportedSignatureAlgorithm" => {
            "the certificate is signed in a way that is not supported; ECDSA, Ed25519 and RSA with SHA-2 are"
        }
        _ => return cause,
    };
    words.to_owned()
}

/// Whether an endpoint refuses our certificate, or misses one. In TLS 1.3 we learn that after the handshake, in the place of a response.
#[must_use]
pub fn refuses_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(
        inner,
        Some(Error::AlertReceived(
            AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
        ))
    )
}

fn reason(error: &Error) -> TlsFailure {
    match error {
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } | Error::DecryptError => {
            TlsFailure::NotTls
        }
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => TlsFailure::Version,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => TlsFailure::Parameters,
        Error::NoCertificatesPresented => TlsFailure::CertificateMissing,
        Error::InvalidCertificate(error) => reason_of_certificate(error),
        Error::AlertReceived(AlertDescription::ProtocolVersion) => TlsFailure::Version,
        Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity) => {
            TlsFailure::Parameters
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => TlsFailure::CertificateMissing,
        Error::AlertReceived(_) => TlsFailure::RefusedByPeer,
        Error::InvalidCertRevocationList(_) | Error::PeerMisbehaved(_) => TlsFailure::Misbehaved,
        _ => TlsFailure::Other,
    }
}

fn reason_of_certificate(error: &CertificateError) -> TlsFailure {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFailure::CertificateExpired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsFailure::CertificateNotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsFailure::CertificateName
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsFailure::CertificateAuthority,
        _ => TlsFailure::CertificateInvalid,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn failed(error: Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn each_failure_has_a_reason() {
        let table = [
            (Error::DecryptError, TlsFailure::NotTls),
            (PeerIncompatible::Tls12NotOfferedOrEnabled.into(), TlsFailure::Version),
            (PeerIncompatible::NoCipherSuitesInCommon.into(), TlsFailure::Parameters),
            (PeerIncompatible::NoKxGroupsInCommon.into(), TlsFailure::Parameters),
            (Error::NoApplicationProtocol, TlsFailure::Parameters),
            (Error::NoCertificatesPresented, TlsFailure::CertificateMissing),
            (CertificateError::Expired.into(), TlsFailure::CertificateExpired),
            (CertificateError::NotValidYet.into(), TlsFailure::CertificateNotYetValid),
            (CertificateError::NotValidForName.into(), TlsFailure::CertificateName),
            (CertificateError::UnknownIssuer.into(), TlsFailure::CertificateAuthority),
            (CertificateError::InvalidPurpose.into(), TlsFailure::CertificateInvalid),
            (Error::AlertReceived(AlertDescription::ProtocolVersion), TlsFailure::Version),
            (Error::AlertReceived(AlertDescription::UnknownCA), TlsFailure::RefusedByPeer),
            (Error::General("x".to_owned()), TlsFailure::Other),
        ];
        for (error, expected) in table {
            assert_eq!(HandshakeFailure::of(&failed(error.clone()), None).reason, expected, "{error}");
        }
        let closed = HandshakeFailure::of(&io::ErrorKind::UnexpectedEof.into(), None);
        assert_eq!(closed.reason, TlsFailure::Closed);
    }

    #[test]
    fn the_words_are_words_where_the_library_prints_its_fields() {
        let other =
            |cause: &'static str| CertificateError::Other(OtherError(std::sync::Arc::from(Box::from(cause))));
        let unsupported = CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: vec![6, 9, 42],
            supported_algorithms: Vec::new(),
        };
        let table = [
            (other("UnsupportedCertVersion"), "X.509 version 1"),
            (other("CaUsedAsEndEntity"), "that of an authority"),
            (unsupported, "signed in a way that is not supported"),
            (other("anything else"), "anything else"),
        ];
        for (error, expected) in table {
            let words = HandshakeFailure::of(&failed(error.into()), None).to_string();
            assert!(words.contains(expected) && !words.contains("Other"), "{words}");
        }
    }

    #[test]
    fn an_endpoint_that_refuses_our_certificate_is_told_from_one_that_breaks_off() {
        assert!(refuses_certificate(&failed(Error::AlertReceived(AlertDescription::CertificateRequired))));
        assert!(!refuses_certificate(&failed(Error::AlertReceived(AlertDescription::InternalError))));
        assert!(!refuses_certificate(&io::ErrorKind::UnexpectedEof.into()));
    }

    #[test]
    fn the_words_name_the_certificate_that_was_refused_and_no_other() {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "pod");
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        note_refused(&der);
        let failure = HandshakeFailure::of(&failed(CertificateError::Expired.into()), Some("chat.internal"));
        let words = failure.to_string();
        for part in ["Expired", "CN=pod", "valid from 1975-", "for a.example", "asked for chat.internal"] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
        let next = HandshakeFailure::of(&failed(CertificateError::Expired.into()), None).to_string();
        assert!(!next.contains("CN=pod"), "{next}");
    }
}
