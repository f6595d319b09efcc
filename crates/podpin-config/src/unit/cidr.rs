//! Address ranges in CIDR notation (RFC 4632, RFC 4291): `10.0.0.0/8`, `fd00::/8`, `10.0.0.1`.
//!
//! IPv4-mapped IPv6 addresses (`::ffff:10.0.0.1`) are what a dual-stack socket reports for IPv4 clients; they are
//! compared as IPv4 on both sides, so that one entry trusts the proxy however it arrives.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use thiserror::Error;

/// A range of addresses that share a prefix.
///
/// ```
/// use podpin_config::{Cidr, CidrError};
///
/// let trusted: Cidr = "10.1.2.3/8".parse()?;
/// assert_eq!(trusted.to_string(), "10.0.0.0/8");
/// assert!(trusted.contains("10.9.9.9".parse().unwrap()));
/// assert!(trusted.contains("::ffff:10.9.9.9".parse().unwrap()));
/// assert_eq!("10.0.0.0/33".parse::<Cidr>(), Err(CidrError::PrefixTooLong { max: 32 }));
/// # Ok::<(), CidrError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr(
    /// The bits after the prefix are cleared.
    IpNet,
);

/// Reasons why a text is not an address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CidrError {
    /// Neither an address nor an address with a prefix length.
    #[error("expected an address range such as 10.0.0.0/8 or fd00::/8")]
    Malformed,
    /// A prefix that is longer than the address.
    #[error("the prefix length must be between 0 and {max}")]
    PrefixTooLong {
        /// 32 for IPv4, 128 for IPv6.
        max: u8,
    },
}

impl Cidr {
    /// Returns the range of `prefix_bits` around `address`; bits after the prefix are ignored.
    fn new(address: IpAddr, prefix_bits: u8) -> Result<Self, CidrError> {
        let max = if address.is_ipv4() { 32 } else { 128 };
        let net = IpNet::new(address, prefix_bits).map_err(|_| CidrError::PrefixTooLong { max })?;
        Ok(Self(net.trunc()))
    }

    /// Whether `ip` lies in the range. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// Reads `address/prefix`, or an address alone for exactly that address.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| CidrError::Malformed)?;
        let prefix_bits = match prefix {
            None => IpNet::from(address).prefix_len(),
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                // A number past 255 is as wrong as 255 is.
                digits.parse().unwrap_or(u8::MAX)
            }
            Some(_) => return Err(CidrError::Malformed),
        };
        match (address.to_canonical(), prefix_bits.checked_sub(96)) {
            (mapped @ IpAddr::V4(_), Some(bits)) if address.is_ipv6() && bits <= 32 => {
                Self::new(mapped, bits)
            }
            _ => Self::new(address, prefix_bits),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_contains_the_addresses_of_its_prefix_and_no_others() {
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.1.2.3", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "fd00::1", false),
            ("::/0", "fd00::1", true),
            ("::/0", "10.0.0.1", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("fd00::1", "fd00::2", false),
        ];
        for (range, ip, expected) in cases {
            assert_eq!(cidr(range).contains(ip.parse().unwrap()), expected, "{range} {ip}");
        }
    }

    #[test]
    fn a_range_is_written_with_its_network_address() {
        let cases = [("10.1.2.3/8", "10.0.0.0/8"), ("10.1.2.3", "10.1.2.3/32"), ("fd00::1/8", "fd00::/8")];
        for (text, expected) in cases {
            assert_eq!(cidr(text).to_string(), expected);
        }
    }

    #[test]
    fn what_is_not_a_range_is_refused() {
        let malformed = ["", "10.0.0", "10.0.0.0/", "10.0.0.0/+8", "/8", "example.com/8", "10.0.0.0/8/8"];
        for text in malformed {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Malformed), "{text}");
        }
        assert_eq!("10.0.0.0/33".parse::<Cidr>(), Err(CidrError::PrefixTooLong { max: 32 }));
        assert_eq!("::/129".parse::<Cidr>(), Err(CidrError::PrefixTooLong { max: 128 }));
        assert_eq!("::ffff:10.0.0.0/129".parse::<Cidr>(), Err(CidrError::PrefixTooLong { max: 128 }));
        assert_eq!("::/999".parse::<Cidr>(), Err(CidrError::PrefixTooLong { max: 128 }));
    }

    proptest! {
        #[test]
        fn a_written_range_reads_back_and_contains_its_address(bits: u128, v4: bool, prefix in 0u8..=128) {
            let ip: IpAddr = if v4 { Ipv4Addr::from_bits(bits as u32).into() } else { Ipv6Addr::from_bits(bits).into() };
            let range = Cidr::new(ip, if v4 { prefix / 4 } else { prefix }).unwrap();
            let network = range.0.network();
            prop_assert!(network.to_canonical() != network || range.contains(ip));
            if network.to_canonical() == network {
                prop_assert_eq!(cidr(&range.to_string()), range);
            }
        }
    }
}
