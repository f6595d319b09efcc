//! Tables of headers as they may and may not be, and the laws that hold for any bytes.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

const SOURCE_4: &str = "192.0.2.7:51234";
const SOURCE_6: &str = "[2001:db8::7]:51234";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A header of version 2 as it is written: version and command, family, what follows, and the length that it claims.
fn version_2(command: u8, family: u8, rest: &[u8], claimed: usize) -> Vec<u8> {
    let length = u16::try_from(claimed).unwrap().to_be_bytes();
    [SIGNATURE_2, &[command, family], &length, rest].concat()
}

/// The addresses of version 2, both the same.
fn pair(address: SocketAddr) -> Vec<u8> {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    [&ip[..], &ip, &address.port().to_be_bytes(), &443_u16.to_be_bytes()].concat()
}

fn written(version: u8, source: SocketAddr, extensions: &[u8]) -> Vec<u8> {
    let (ip, port) = (source.ip(), source.port());
    if version == 1 {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        return format!("PROXY {family} {ip} {ip} {port} 443\r\n").into_bytes();
    }
    let rest = [&pair(source)[..], extensions].concat();
    version_2(0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, &rest, rest.len())
}

#[test]
fn a_header_gives_the_client_and_its_own_length() {
    let local = |family| version_2(0x20, family, &pair(at(SOURCE_4)), 12);
    let cases = [
        (b"PROXY TCP4 192.0.2.7 203.0.113.1 51234 443\r\n".to_vec(), Some(SOURCE_4)),
        (b"PROXY TCP6 2001:db8::7 ::1 51234 443\r\n".to_vec(), Some(SOURCE_6)),
        (b"PROXY TCP6 2001:DB8:0:0:0:0:0:7 ::1 51234 0\r\n".to_vec(), Some(SOURCE_6)),
        (b"PROXY TCP4 192.0.2.7 203.0.113.1 0 65535\r\n".to_vec(), Some("192.0.2.7:0")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN ffff::1 \xff\0 whatever 1\r\n".to_vec(), None),
        (written(2, at(SOURCE_4), b""), Some(SOURCE_4)),
        (written(2, at(SOURCE_4), b"\x04\x00\x01x"), Some(SOURCE_4)),
        (written(2, at(SOURCE_6), b"not even extensions"), Some(SOURCE_6)),
        (version_2(0x21, 0x00, b"", 0), None),
        (version_2(0x21, 0x00, b"\x01\x02\x03", 3), None),
        (version_2(0x21, 0x12, &pair(at(SOURCE_4)), 12), None),
        (version_2(0x21, 0x22, &pair(at(SOURCE_6)), 36), None),
        (version_2(0x21, 0x31, &[b'/'; 216], 216), None),
        (version_2(0x20, 0x00, b"", 0), None),
        (local(0x11), None),
        (local(0xee), None),
        (version_2(0x21, 0x00, &[7; 4080], 4080), None),
    ];
    for (header, client) in cases {
        let client = client.map(at);
        for behind in ["", "GET / HTTP/1.1\r\n\r\n", "PROXY UNKNOWN\r\n"] {
            let input = [&header[..], behind.as_bytes()].concat();
            let expected = Ok(Parsed::Header { length: header.len(), client });
            assert_eq!(parse(&input), expected, "{:?}", String::from_utf8_lossy(&header));
        }
    }
}

#[test]
fn a_longest_line_is_read_and_one_byte_more_is_too_long() {
    let line = |length: usize| {
        let padding = "x".repeat(length - "PROXY UNKNOWN \r\n".len());
        format!("PROXY UNKNOWN {padding}\r\n").into_bytes()
    };
    assert_eq!(parse(&line(107)), Ok(Parsed::Header { length: 107, client: None }));
    assert_eq!(parse(&line(108)), Err(HeaderError::TooLong));
    assert_eq!(parse(&line(108)[..106]), Ok(Parsed::Partial));
    assert_eq!(parse(&line(108)[..107]), Err(HeaderError::TooLong));
    assert_eq!(parse(&version_2(0x21, 0x00, b"", 4081)), Err(HeaderError::TooLong));
    assert_eq!(parse(&version_2(0x20, 0x00, b"", 65_535)), Err(HeaderError::TooLong));
}

#[test]
fn whatever_is_not_exactly_a_header_is_malformed() {
    let lines = [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2.7 203.0.113.1 51234\r\n",
        "PROXY TCP4 192.0.2.7 203.0.113.1 51234 443 \r\n",
        "PROXY TCP4 192.0.2.7 203.0.113.1 51234 443 more\r\n",
        "PROXY TCP4  192.0.2.7 203.0.113.1 51234 443\r\n",
        "PROXY  TCP4 192.0.2.7 203.0.113.1 51234 443\r\n",
        "PROXY TCP4\t192.0.2.7 203.0.113.1 51234 443\r\n",
        "PROXY TCP4 192.0.2.7 203.0.113.1 51234 443\n",
        "PROXY TCP4 192.0.2.7 203.0.113.1 51234 443\r\r\n ",
        "PROXY TCP4 192.0.2.7 203.0.113.1 51234 65536\r\n",
        "PROXY TCP4 192.0.2.7 203.0.113.1 65536 443\r\n",
        "PROXY TCP4 192.0.2.7 203.0.113.1 051234 443\r\n",
        "PROXY TCP4 192.0.2.7 203.0.113.1 00 443\r\n",
        "PROXY TCP4 192.0.2.7 203.0.113.1 +1 443\r\n",
        "PROXY TCP4 192.0.2.7 203.0.113.1 -1 443\r\n",
        "PROXY TCP4 192.0.2.7 203.0.113.1  443\r\n",
        "PROXY TCP4 192.0.2.007 203.0.113.1 51234 443\r\n",
        "PROXY TCP4 192.0.2.256 203.0.113.1 51234 443\r\n",
        "PROXY TCP4 192.0.2.7 203.0.113 51234 443\r\n",
        "PROXY TCP4 2001:db8::7 ::1 51234 443\r\n",
        "PROXY TCP6 192.0.2.7 203.0.113.1 51234 443\r\n",
        "PROXY TCP6 [2001:db8::7] [::1] 51234 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 51234 443\r\n",
        "PROXY TCP5 192.0.2.7 203.0.113.1 51234 443\r\n",
        "PROXY tcp4 192.0.2.7 203.0.113.1 51234 443\r\n",
        "PROXY UDP4 192.0.2.7 203.0.113.1 51234 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY unknown\r\n",
        "PROXY / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PROXY \u{e9} \u{e9} \u{e9} 1 1\r\n",
    ];
    for text in lines {
        assert!(matches!(parse(text.as_bytes()), Err(HeaderError::Malformed(_))), "{text:?}");
    }
    let (short_4, short_6) = (pair(at(SOURCE_4)), pair(at(SOURCE_6)));
    let binaries = [
        version_2(0x11, 0x11, &short_4, 12),
        version_2(0x31, 0x11, &short_4, 12),
        version_2(0x22, 0x11, &short_4, 12),
        version_2(0x2f, 0x11, &short_4, 12),
        version_2(0x01, 0x11, &short_4, 12),
        version_2(0x21, 0x01, &short_4, 12),
        version_2(0x21, 0x10, &short_4, 12),
        version_2(0x21, 0x13, &short_4, 12),
        version_2(0x21, 0x41, &short_4, 12),
        version_2(0x21, 0x11, &short_4, 11),
        version_2(0x21, 0x11, &[], 0),
        version_2(0x21, 0x21, &short_6, 35),
        version_2(0x21, 0x21, &short_4, 12),
        version_2(0x21, 0x31, &[0; 215], 215),
    ];
    for header in binaries {
        assert!(matches!(parse(&header), Err(HeaderError::Malformed(_))), "{header:x?}");
    }
}

#[test]
fn what_clients_begin_with_is_no_header() {
    let beginnings = [
        "GET / HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\n",
        "PUT / HTTP/1.1\r\n",
        "PATCH / HTTP/1.1\r\n",
        "PROPFIND / HTTP/1.1\r\n",
        "PROXYING / HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\n",
        "\r\n\r\n\0\r\nQUIT\r",
        "proxy TCP4 ",
        "\u{16}\u{3}\u{1}",
    ];
    for text in beginnings {
        assert_eq!(parse(text.as_bytes()), Ok(Parsed::Absent), "{text:?}");
    }
    for text in ["", "P", "PR", "PROXY", "\r", "\r\n\r\n", "\r\n\r\n\0\r\nQUIT"] {
        assert_eq!(parse(text.as_bytes()), Ok(Parsed::Partial), "{text:?}");
    }
}

/// Parses bytes that arrive in pieces, which end at `ends`; returns the first result that is not `Partial`.
fn in_pieces(input: &[u8], ends: &[usize]) -> Result<Parsed, HeaderError> {
    let mut ends: Vec<usize> = ends.iter().map(|end| end % (input.len() + 1)).collect();
    ends.sort_unstable();
    let partial = |outcome: &Result<Parsed, HeaderError>| *outcome == Ok(Parsed::Partial);
    let answers = ends.into_iter().map(|end| parse(&input[..end]));
    answers.chain([parse(input)]).find(|outcome| !partial(outcome)).unwrap_or(Ok(Parsed::Partial))
}

/// Bytes that get far: the beginning of a header with anything behind, and headers with one byte changed.
fn almost_headers() -> impl Strategy<Value = Vec<u8>> {
    let beginnings = prop_oneof![
        Just(b"PROXY ".to_vec()),
        Just(b"PROXY UNKNOWN".to_vec()),
        Just(b"PROXY TCP4 1.2.3.4 ".to_vec()),
        Just(SIGNATURE_2.to_vec()),
        Just([SIGNATURE_2, &[0x21, 0x11]].concat()),
        Just([SIGNATURE_2, &[0x20, 0x00, 0x00]].concat()),
        Just(Vec::new()),
    ];
    let with_anything = (beginnings, prop::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(head, tail)| [head, tail].concat());
    let changed = (1..=2_u8, any::<SocketAddr>(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(version, source, index, byte)| {
            let mut header = written(version, source, b"");
            let place = index.index(header.len());
            header[place] = byte;
            header
        },
    );
    prop_oneof![with_anything, changed]
}

proptest! {
    #[test]
    fn what_is_written_reads_back(version in 1..=2_u8, v4: bool, bits: u128, port: u16, behind: Vec<u8>) {
        let ip: IpAddr =
            if v4 { Ipv4Addr::from_bits(bits as u32).into() } else { Ipv6Addr::from_bits(bits).into() };
        let header = written(version, SocketAddr::new(ip, port), b"");
        let input = [&header[..], &behind].concat();
        let expected = Parsed::Header { length: header.len(), client: Some(SocketAddr::new(ip, port)) };
        prop_assert_eq!(parse(&input), Ok(expected));
        for end in 0..header.len() {
            prop_assert_eq!(parse(&input[..end]), Ok(Parsed::Partial));
        }
    }

    #[test]
    fn pieces_change_nothing(input in almost_headers(), ends in prop::collection::vec(any::<usize>(), 0..8)) {
        prop_assert_eq!(in_pieces(&input, &ends), parse(&input));
    }

    #[test]
    fn a_header_is_never_longer_than_what_it_was_read_from(input in almost_headers()) {
        if let Ok(Parsed::Header { length, .. }) = parse(&input) {
            prop_assert!(length <= input.len() && length <= HEADER_BYTES_MAX);
        }
    }
}
