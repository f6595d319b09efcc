//! The protocol of a service's pods: `protocol`.

use crate::section::Section;

/// The protocol of a service's pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, with TLS where `tls` is set.
    #[default]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge (RFC 9113 section 3.3).
    H2c,
    /// HTTP/2 over TLS, by ALPN.
    H2,
    /// HTTP/2, with TLS where `tls` is set; the health of an endpoint is asked by `grpc.health.v1`.
    Grpc,
}

impl Protocol {
    /// Reads `protocol`, and checks what other keys of the service say to it.
    pub(super) fn read(section: &Section<'_>) -> Self {
        let choices = [("http1", Self::Http1), ("h2c", Self::H2c), ("h2", Self::H2), ("grpc", Self::Grpc)];
        let protocol = section.choice("protocol", &choices, Self::default());
        let has_tls = section.get("tls").is_some_and(|tls| !tls.is_off() && !tls.is_null());
        let fault = match (protocol, has_tls) {
            (Self::H2c, true) => Some("h2c is HTTP/2 without TLS; with `tls` it is `h2` or `grpc`"),
            (Self::H2, false) => {
                Some("h2 is HTTP/2 over TLS and needs `tls`; without TLS it is `h2c` or `grpc`")
            }
            _ => None,
        };
        if let (Some(fault), Some(node)) = (fault, section.get("protocol")) {
            node.fail(fault);
        }
        protocol
    }

    /// Returns whether the pods speak HTTP/2.
    #[must_use]
    pub fn is_http2(self) -> bool {
        self != Self::Http1
    }
}
