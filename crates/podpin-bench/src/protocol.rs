//! The protocols that the load clients speak.

/// Over HTTP/2; what browsers and proxies allow by default (RFC 9113 section 6.5.2 recommends no less).
pub(crate) const STREAMS_ON_A_CONNECTION: u32 = 100;

/// The protocol of the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 in plaintext: a connection for each stream.
    Http1,
    /// HTTP/2 in plaintext with prior knowledge: 100 streams on a connection.
    H2c,
    /// HTTP/1.1 over TLS.
    Http1Tls,
    /// HTTP/2 over TLS, 100 streams on a connection.
    H2Tls,
}

impl Protocol {
    /// Whether many streams share a connection.
    pub(crate) fn is_h2(self) -> bool {
        matches!(self, Self::H2c | Self::H2Tls)
    }

    /// Whether the connection is encrypted.
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Http1Tls | Self::H2Tls)
    }

    /// Before the name of what goes over it, in reports.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Http1 => "",
            Self::H2c => "h2c ",
            Self::Http1Tls => "TLS ",
            Self::H2Tls => "TLS h2 ",
        }
    }
}
