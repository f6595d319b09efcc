//! The PROXY protocol, versions 1 and 2: what a load balancer says of its client before the client's own bytes.
//!
//! As in HAProxy's `proxy-protocol.txt`. Version 1 is one line:
//!
//! ```text
//! PROXY TCP4 192.0.2.7 203.0.113.1 51234 443\r\n     or TCP6, or UNKNOWN and whatever
//! ```
//!
//! Version 2 is binary, numbers in network order:
//!
//! ```text
//! signature (12) | version 2, command (1) | family, transport (1) | length (2) | addresses | extensions
//! ```
//!
//! Addresses of TCP are taken; for every other family the connection speaks for itself, as the document allows.
//! Extensions (TLVs) are skipped, their checksum with them: a peer that is trusted with addresses can compute one, and
//! TCP has its own against accidents. [`parse`] is pure: the same bytes say the same in whatever pieces they come.
//! Trust, and the reading of the bytes, are left to the caller.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE_1: &[u8] = b"PROXY ";
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Says the document: the longest line of version 1, with its line end.
const LINE_BYTES_MAX: usize = 107;
/// Version 2 allows 64 KiB of extensions. What load balancers send fits in a few hundred bytes; nginx stops here, too.
pub const HEADER_BYTES_MAX: usize = 4096;
/// Signature, command, family and length.
const FIXED_BYTES: usize = 16;

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// No header.
    Absent,
    /// What may become a header.
    Partial,
    /// A header of so many bytes; without a client, the connection speaks for itself.
    Header {
        /// Bytes of the header.
        length: usize,
        /// Address of the client; `None` if the header names none.
        client: Option<SocketAddr>,
    },
}

/// Why what begins as a header is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// More than 107 bytes in version 1, than 4 KiB in version 2.
    #[error("the PROXY header is too long")]
    TooLong,
    /// Not what the document says.
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
}

/// Reads the header at the beginning of `input`.
///
/// # Errors
/// As soon as it can only be malformed or too long.
pub fn parse(input: &[u8]) -> Result<Parsed, HeaderError> {
    if input.starts_with(SIGNATURE_1) {
        line(input)
    } else if input.starts_with(SIGNATURE_2) {
        binary(input)
    } else if SIGNATURE_1.starts_with(input) || SIGNATURE_2.starts_with(input) {
        Ok(Parsed::Partial)
    } else {
        Ok(Parsed::Absent)
    }
}

/// Version 1.
fn line(input: &[u8]) -> Result<Parsed, HeaderError> {
    let within = input.get(..LINE_BYTES_MAX).unwrap_or(input);
    let Some(newline) = memchr::memchr(b'\n', within) else {
        return if within.len() < LINE_BYTES_MAX { Ok(Parsed::Partial) } else { Err(HeaderError::TooLong) };
    };
    let line = within.get(SIGNATURE_1.len()..newline).and_then(|line| line.strip_suffix(b"\r"));
    let line = line.ok_or(HeaderError::Malformed("the line does not end in CR LF"))?;
    let client = match line.strip_prefix(b"UNKNOWN") {
        Some([] | [b' ', ..]) => None,
        _ => Some(addresses(line)?),
    };
    Ok(Parsed::Header { length: newline + 1, client })
}

/// `TCP4 source destination port port`, without more or other space.
fn addresses(line: &[u8]) -> Result<SocketAddr, HeaderError> {
    let words = std::str::from_utf8(line).map_err(|_| HeaderError::Malformed("not ASCII"))?;
    let words: Vec<&str> = words.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = words.as_slice() else {
        return Err(HeaderError::Malformed("not a family, two addresses and two ports"));
    };
    let read: fn(&str) -> Option<IpAddr> = match *family {
        "TCP4" => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return Err(HeaderError::Malformed("the family is neither TCP4 nor TCP6 nor UNKNOWN")),
    };
    let not_of_it = HeaderError::Malformed("an address is not one of the family");
    let source = read(source).ok_or(not_of_it)?;
    read(destination).ok_or(not_of_it)?;
    let no_port = HeaderError::Malformed("a port is not a number from 0 to 65535");
    port(destination_port).ok_or(no_port)?;
    Ok(SocketAddr::new(source, port(source_port).ok_or(no_port)?))
}

/// Decimal, without sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// Version 2.
fn binary(input: &[u8]) -> Result<Parsed, HeaderError> {
    // Each byte is judged as soon as it is there, so that pieces change nothing.
    let Some(version) = input.get(SIGNATURE_2.len()) else { return Ok(Parsed::Partial) };
    let relayed = match version {
        0x20 => false,
        0x21 => true,
        _ => return Err(HeaderError::Malformed("neither LOCAL nor PROXY of version 2")),
    };
    let Some(family) = input.get(SIGNATURE_2.len() + 1) else { return Ok(Parsed::Partial) };
    // What LOCAL says of addresses is ignored, whatever it is.
    let address_bytes = match family {
        _ if !relayed => 0,
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(HeaderError::Malformed("an unknown address family")),
    };
    let Some(&[high, low]) = input.get(FIXED_BYTES - 2..FIXED_BYTES) else { return Ok(Parsed::Partial) };
    let rest_bytes = usize::from(u16::from_be_bytes([high, low]));
    let length = FIXED_BYTES + rest_bytes;
    if length > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLong);
    }
    if rest_bytes < address_bytes {
        return Err(HeaderError::Malformed("too short for its addresses"));
    }
    let Some(rest) = input.get(FIXED_BYTES..length) else { return Ok(Parsed::Partial) };
    let client = match family {
        0x11 if relayed => source_4(rest),
        0x21 if relayed => source_6(rest),
        _ => None,
    };
    Ok(Parsed::Header { length, client })
}

/// Source and destination address, source and destination port.
fn source_4(rest: &[u8]) -> Option<SocketAddr> {
    let (address, rest) = rest.split_first_chunk::<4>()?;
    let port = rest.get(4..)?.first_chunk::<2>()?;
    Some(SocketAddr::new(Ipv4Addr::from(*address).into(), u16::from_be_bytes(*port)))
}

fn source_6(rest: &[u8]) -> Option<SocketAddr> {
    let (address, rest) = rest.split_first_chunk::<16>()?;
    let port = rest.get(16..)?.first_chunk::<2>()?;
    Some(SocketAddr::new(Ipv6Addr::from(*address).into(), u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests;
