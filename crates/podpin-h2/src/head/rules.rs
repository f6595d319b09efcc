//! The characters that each part of a head may have.

/// A set of characters, one bit in [`SETS`].
#[derive(Clone, Copy)]
pub(super) struct Set(u8);

impl Set {
    /// A token (RFC 9110 section 5.6.2): methods and protocols.
    pub(super) const TOKEN: Set = Set(1);
    /// A token without upper case: a field name (RFC 9113 section 8.2.1).
    pub(super) const NAME: Set = Set(2);
    /// Host and port, nothing that another parser could read as something else.
    pub(super) const AUTHORITY: Set = Set(4);

    /// Whether all bytes are in the set.
    pub(super) fn has_all(self, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| SETS.get(usize::from(*byte)).is_some_and(|sets| sets & self.0 != 0))
    }
}

static SETS: [u8; 256] = sets();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler: a wrong index does not build")]
#[expect(clippy::cast_possible_truncation, reason = "the loop ends at 256")]
const fn sets() -> [u8; 256] {
    let mut sets = [0; 256];
    let mut number = 0;
    while number < 256 {
        let byte = number as u8;
        let is_tchar = byte.is_ascii_alphanumeric()
            || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.')
            || matches!(byte, b'^' | b'_' | b'`' | b'|' | b'~');
        let is_host =
            byte.is_ascii_graphic() && !matches!(byte, b'/' | b'@' | b'?' | b'#' | b'\\' | b',' | b'"');
        sets[number] = Set::TOKEN.0 * is_tchar as u8
            + Set::NAME.0 * (is_tchar && !byte.is_ascii_uppercase()) as u8
            + Set::AUTHORITY.0 * is_host as u8;
        number += 1;
    }
    sets
}

/// Whether these bytes may be a field value: no control character but the tabulator. Without a branch for each
/// byte, so that many are compared at once.
pub(super) fn is_value(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |all, byte| all & ((*byte >= b' ') & (*byte != 0x7f) | (*byte == b'\t')))
}

/// Whether these bytes may be a target: no control character, no space, no fragment. What HTTP/1.1 takes, quotes
/// and bytes above 0x7f included.
pub(super) fn is_target(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |all, byte| all & (*byte > b' ') & (*byte != 0x7f) & (*byte != b'#'))
}

/// Whether a name belongs to one connection of HTTP/1.1, which HTTP/2 does not have (RFC 9113 section 8.2.2).
pub(super) fn is_of_connection(name: &[u8]) -> bool {
    matches!(name, b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade")
}

/// Whether two spellings name the same host and port; a port that the scheme implies may be left out.
pub(super) fn is_same_authority(one: &[u8], other: &[u8], scheme: &[u8]) -> bool {
    let port: &[u8] = if scheme.eq_ignore_ascii_case(b"https") { b":443" } else { b":80" };
    let bare = |authority| <[u8]>::strip_suffix(authority, port).unwrap_or(authority);
    bare(one).eq_ignore_ascii_case(bare(other))
}

/// Reads the digits of a length.
pub(super) fn content_length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// Reads the urgency of a `priority` field (RFC 9218 section 4.1); `None` if it names none.
pub(super) fn urgency(value: &[u8]) -> Option<u8> {
    let mut members = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    members.find_map(|member| match member {
        [b'u', b'=', digit @ b'0'..=b'7'] => Some(digit - b'0'),
        _ => None,
    })
}
