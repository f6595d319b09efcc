//! Fields that tell an endpoint of the client: `X-Forwarded-*`, `X-Real-IP`, `Forwarded` (RFC 7239), and its certificate.

use std::fmt::{self, Write};
use std::net::IpAddr;

use crate::client::{Client, ClientCertificate};
use crate::fields::Fields;
use crate::forwarded;
use crate::header_list::HeaderList;
use crate::headers::{
    CLIENT_CERT, CLIENT_CERT_CHAIN, CLIENT_FINGERPRINT, CLIENT_ISSUER, CLIENT_SAN, CLIENT_SUBJECT, FORWARDED,
    FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, REAL_IP,
};

/// Sets the fields about the client: `X-Forwarded-For/-Proto/-Host`, `X-Real-IP` and `Forwarded`, appended to the
/// values of a trusted proxy, in the place of any other client's. `received` are the fields as they came.
pub fn write_forwarding(fields: &mut HeaderList<'_>, received: &Fields, client: &Client, authority: &str) {
    let before = client.trusted.then_some(received);
    let scheme = if client.secure { "https" } else { "http" };
    let peer = &AddressText::of(client.peer);
    let address = &AddressText::of(client.address);
    if client.address != client.peer && !received.contains(&forwarded::FORWARDED_FOR) {
        // Named by `Forwarded` alone.
        set_list(fields, FORWARDED_FOR, None, &[address.text(), ", ", peer.text()]);
    } else {
        set_list(fields, FORWARDED_FOR, before, &[peer.text()]);
    }
    set_first(fields, FORWARDED_PROTO, before, scheme);
    set_first(fields, FORWARDED_HOST, before, authority);
    set_first(fields, REAL_IP, None, address.text());
    // RFC 7239 section 4: IPv6 addresses and hosts with a port are quoted.
    let [before_peer, behind_peer] = if client.peer.is_ipv6() { ["for=\"[", "]\""] } else { ["for=", ""] };
    let [before_host, behind_host] = match authority {
        "" => ["", ""],
        host if is_plain_host(host) => [";host=", ""],
        _ => [";host=\"", "\""],
    };
    let element =
        [before_peer, peer.text(), behind_peer, before_host, authority, behind_host, ";proto=", scheme];
    set_list(fields, FORWARDED, before, &element);
    if let Some(certificate) = client.certificate.as_deref() {
        write_certificate(fields, certificate);
    }
}

/// Whether a host needs no quotes in `Forwarded`.
fn is_plain_host(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// An IP address as text, without memory of its own.
struct AddressText {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

impl AddressText {
    /// Length of the longest address: IPv6 with an IPv4 address within.
    const LONGEST: usize = 46;

    fn of(address: IpAddr) -> AddressText {
        let mut text = AddressText { bytes: [0; Self::LONGEST], length: 0 };
        // There is room for any.
        let _ = match address {
            IpAddr::V4(address) => {
                let octets = address.octets();
                octets.iter().enumerate().try_for_each(|(at, octet)| text.push_octet(*octet, at > 0))
            }
            IpAddr::V6(address) => write!(text, "{address}"),
        };
        text
    }

    fn push_octet(&mut self, octet: u8, is_behind_another: bool) -> fmt::Result {
        let digits = [octet / 100, octet / 10 % 10, octet % 10].map(|digit| b'0' + digit);
        let digits = match octet {
            0..10 => digits.get(2..),
            10..100 => digits.get(1..),
            _ => digits.get(..),
        };
        if is_behind_another {
            self.push(b".")?;
        }
        self.push(digits.unwrap_or_default())
    }

    fn push(&mut self, text: &[u8]) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text);
        self.length = end;
        Ok(())
    }

    fn text(&self) -> &str {
        self.bytes.get(..self.length).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }
}

impl fmt::Write for AddressText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes())
    }
}

/// Sets a list: the items of the fields of this name before, and one more, of these parts.
fn set_list(fields: &mut HeaderList<'_>, name: &'static [u8], before: Option<&Fields>, item: &[&str]) {
    fields.insert_written(name, |value| {
        let start = value.len();
        join(value, name, before);
        if value.len() > start {
            value.extend_from_slice(b", ");
        }
        item.iter().for_each(|part| value.extend_from_slice(part.as_bytes()));
    });
}

/// Sets the values of the fields of this name before, or else `otherwise`; nothing if that is empty, too.
fn set_first(fields: &mut HeaderList<'_>, name: &'static [u8], before: Option<&Fields>, otherwise: &str) {
    fields.insert_written(name, |value| {
        let start = value.len();
        join(value, name, before);
        if value.len() == start {
            value.extend_from_slice(otherwise.as_bytes());
        }
    });
}

fn write_certificate(fields: &mut HeaderList<'_>, certificate: &ClientCertificate) {
    for (name, text) in [
        (CLIENT_SUBJECT, &certificate.subject),
        (CLIENT_ISSUER, &certificate.issuer),
        (CLIENT_SAN, &certificate.subject_alt_names),
        (CLIENT_FINGERPRINT, &certificate.fingerprint),
        (CLIENT_CERT, &certificate.certificate),
        (CLIENT_CERT_CHAIN, &certificate.chain),
    ] {
        set_first(fields, name, None, text.as_deref().unwrap_or_default());
    }
}

/// Appends the items of the fields of this name that came before.
fn join(value: &mut Vec<u8>, name: &[u8], before: Option<&Fields>) {
    let start = value.len();
    let mut push = |item: &[u8]| {
        if value.len() > start && !item.is_empty() {
            value.extend_from_slice(b", ");
        }
        value.extend_from_slice(item);
    };
    for line in before.into_iter().flat_map(|fields| fields.all_of(name)) {
        if line.is_ascii() {
            push(line);
        } else {
            // Bytes that no item has take their item along, and no other.
            line.split(|byte| *byte == b',')
                .filter(|item| item.is_ascii())
                .for_each(|item| push(item.trim_ascii()));
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use podpin_config::Cidr;

    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let parsed = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(parsed).collect()
    }

    fn client(peer: &str, lines: &[(&str, &str)], trusted: &[&str]) -> Client {
        let ranges: Vec<Cidr> = trusted.iter().map(|range| range.parse().unwrap()).collect();
        Client::of(peer.parse().unwrap(), false, &Fields::from(&map(lines)), &ranges)
    }

    #[test]
    fn forwarding_fields_are_replaced_for_strangers_and_appended_for_trusted_peers() {
        let lines = [
            ("x-forwarded-for", "198.51.100.7"),
            ("forwarded", "for=198.51.100.7"),
            ("x-forwarded-host", "o"),
        ];
        let text = |trusted: &[&str]| {
            let received = Fields::from(&map(&lines));
            let mut told = HeaderList::default();
            write_forwarding(&mut told, &received, &client("10.0.0.1", &lines, trusted), "h:8080");
            let text = |bytes| std::str::from_utf8(bytes).unwrap();
            told.iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect::<Vec<_>>()
        };
        assert_eq!(
            text(&[]),
            [
                "x-forwarded-for=10.0.0.1",
                "x-forwarded-proto=http",
                "x-forwarded-host=h:8080",
                "x-real-ip=10.0.0.1",
                "forwarded=for=10.0.0.1;host=\"h:8080\";proto=http"
            ]
        );
        assert_eq!(
            text(&["10.0.0.0/8"]),
            [
                "x-forwarded-for=198.51.100.7, 10.0.0.1",
                "x-forwarded-proto=http",
                "x-forwarded-host=o",
                "x-real-ip=198.51.100.7",
                "forwarded=for=198.51.100.7, for=10.0.0.1;host=\"h:8080\";proto=http"
            ]
        );
    }

    #[test]
    fn addresses_are_written_as_the_standard_library_does() {
        for text in
            ["0.0.0.0", "1.10.100.255", "255.255.255.255", "9.99.199.200", "::1", "2001:db8::ff00:42:8329"]
        {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(AddressText::of(address).text(), text);
        }
        let longest = "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap();
        assert_eq!(AddressText::of(longest).text().len(), 39);
    }
}
