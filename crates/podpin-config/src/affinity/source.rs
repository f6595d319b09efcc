//! By what, beside the cookie, a client is recognised: a header, a query parameter, its address.

use crate::{name, node::Node, section::Section};

/// Longest name of a header or parameter: longer ones are mistakes.
const NAME_BYTES_MAX: usize = 128;

/// Headers that are written anew on the way, that frame the message, or that carry the cookie.
const REFUSED: &[&str] = &[
    "accept-encoding",
    "client-cert",
    "client-cert-chain",
    "connection",
    "content-length",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "last-event-id",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// How much of an address makes a client: clients whose addresses share this many bits are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIp {
    /// 1 to 32, default 32.
    pub ipv4_prefix_bits: u8,
    /// 1 to 128, default 64: what one household or host is given.
    pub ipv6_prefix_bits: u8,
}

impl ClientIp {
    fn read(section: &Section<'_>) -> Self {
        Self {
            ipv4_prefix_bits: section.count("ipv4Prefix", 1..=32, 32),
            ipv6_prefix_bits: section.count("ipv6Prefix", 1..=128, 64),
        }
    }
}

pub(super) fn read_client_ip(section: &Section<'_>) -> Option<ClientIp> {
    let written = section.get("clientIP")?.section_or_off("the prefixes of an address");
    written.flatten().map(|prefixes| ClientIp::read(&prefixes))
}

/// The header's name in lower case.
pub(super) fn read_header(section: &Section<'_>) -> Option<String> {
    let node = section.get("header").filter(|node| !node.is_off())?;
    let written = node.text("a header name such as X-Session-Id")?;
    if !name::is_token(written) || written.len() > NAME_BYTES_MAX {
        node.fail(format!(
            "{written:?} is not a header name: at most {NAME_BYTES_MAX} of A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~"
        ));
        return None;
    }
    let header = written.to_ascii_lowercase();
    if REFUSED.contains(&header.as_str())
        || header.starts_with("x-podpin-")
        || header.starts_with("x-forwarded-")
    {
        node.fail(format!("`{written}` does not reach the pod as the client sent it; choose another header"));
        return None;
    }
    Some(header)
}

/// The parameter's name as it is when percent-encoding is undone.
pub(super) fn read_query(section: &Section<'_>) -> Option<String> {
    let node: &Node<'_> = section.get("query").filter(|node| !node.is_off())?;
    let written = node.text("the name of a query parameter such as session")?;
    let fits = (1..=NAME_BYTES_MAX).contains(&written.len()) && !written.chars().any(char::is_control);
    if !fits {
        node.fail(format!("{written:?} is not the name of a query parameter: 1 to {NAME_BYTES_MAX} bytes"));
    }
    fits.then(|| written.to_owned())
}
