//! The cookie that carries the token: found among others, taken out before the pod sees it, and set (RFC 6265bis).
//!
//! A browser sends only names and values, in one `Cookie` line or, over HTTP/2, in several (RFC 9113, section
//! 8.2.3). Nothing here decides what is written into the cookie or when.

use std::borrow::Cow;
use std::fmt;

use crate::{TokenError, Verified};

/// The claim of a request about the endpoint that served its client last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// No cookie of ours.
    None,
    /// A cookie that was refused: the client counts as new.
    Refused(TokenError),
    /// A token that verified.
    Pinned(Verified),
}

/// Cookies of one name that are verified. A browser keeps one for each path and domain; each costs a keyed hash.
const VERIFIED_MAX: usize = 8;

/// Finds the cookie `name` in the values of a request's `Cookie` lines and has its value verified.
///
/// Of several cookies of the name the first that verifies counts: a browser has two after a change of `path` or `domain`, and a
/// neighbouring host can plant others on a parent domain (RFC 6265bis, section 8.6), which must not unpin the client. If none of the
/// first `VERIFIED_MAX` does, the first one's error is returned.
pub fn claim<'a>(
    cookie_headers: impl IntoIterator<Item = &'a [u8]>,
    name: &str,
    verify: impl Fn(&[u8]) -> Result<Verified, TokenError>,
) -> Claim {
    let values = cookie_headers.into_iter().flat_map(pairs).filter_map(|pair| value_of(pair, name));
    let mut claim = Claim::None;
    for value in values.take(VERIFIED_MAX) {
        match verify(value) {
            Ok(verified) => return Claim::Pinned(verified),
            Err(error) if claim == Claim::None => claim = Claim::Refused(error),
            Err(_) => {}
        }
    }
    claim
}

/// The value of one `Cookie` line without the cookie `name`; the other cookies stay byte for byte as they are.
///
/// `None` if nothing would be left and the field is to be dropped.
///
/// ```
/// use podpin_affinity::without_cookie;
///
/// let cookies = b"theme=dark; podpin=AbCd; lang=en";
/// assert_eq!(without_cookie(cookies, "podpin").as_deref(), Some(b"theme=dark; lang=en".as_slice()));
/// assert_eq!(without_cookie(b"podpin=AbCd", "podpin"), None);
/// ```
pub fn without_cookie<'a>(header: &'a [u8], name: &str) -> Option<Cow<'a, [u8]>> {
    let mut end = 0;
    let before_ours = pairs(header).take_while(|pair| value_of(pair, name).is_none());
    before_ours.for_each(|pair| end += pair.len() + 1);
    let Some(rest) = header.get(end..).filter(|_| end <= header.len()) else {
        return Some(Cow::Borrowed(header));
    };
    let before = header.get(..end.saturating_sub(1)).unwrap_or_default();
    let mut kept = Vec::with_capacity(header.len());
    kept.extend_from_slice(without_separators(before));
    for pair in pairs(rest).filter(|pair| value_of(pair, name).is_none()) {
        if kept.is_empty() {
            kept.extend_from_slice(pair.trim_ascii_start());
        } else {
            kept.push(b';');
            kept.extend_from_slice(pair);
        }
    }
    let empty = kept.iter().all(|byte| *byte == b';' || byte.is_ascii_whitespace());
    (!empty).then_some(Cow::Owned(kept))
}

/// Returns what follows the white space and semicolons at the beginning.
fn without_separators(header: &[u8]) -> &[u8] {
    let start = header.iter().position(|byte| *byte != b';' && !byte.is_ascii_whitespace());
    start.and_then(|start| header.get(start..)).unwrap_or_default()
}

fn pairs(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    header.split(|byte| *byte == b';')
}

/// The value of `pair` if it is the cookie `name`. White space around both is trimmed as browsers do when they read
/// `Set-Cookie` (RFC 6265bis, section 5.6); a pair without `=` is a value without a name, hence not ours.
fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let behind = pair.trim_ascii_start().strip_prefix(name.as_bytes())?;
    behind.trim_ascii_start().strip_prefix(b"=").map(<[u8]>::trim_ascii)
}

/// The attribute `SameSite` (RFC 6265bis, section 4.1.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Sent only with requests that our own site started.
    Strict,
    /// Also with top-level navigation from elsewhere.
    Lax,
    /// With every request. Browsers accept it only together with `Secure`.
    None,
}

impl fmt::Display for SameSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        })
    }
}

/// A cookie to set. Displayed as the value of a `Set-Cookie` header (RFC 6265bis, section 4.1.1).
///
/// `name`, `value`, `path` and `domain` are written as they are: the configuration has already refused names that
/// are no tokens and values with `;` or control characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetCookie<'a> {
    /// The cookie's name.
    pub name: &'a str,
    /// The cookie's value, a token's text.
    pub value: &'a str,
    /// `Path`: the part of the site that sends it back.
    pub path: &'a str,
    /// `Domain`; none binds the cookie to exactly this host.
    pub domain: Option<&'a str>,
    /// `Max-Age`, seconds; none makes it a session cookie, 0 deletes it.
    pub max_age_seconds: Option<u64>,
    /// `SameSite`; `None` if it is not written.
    pub same_site: Option<SameSite>,
    /// `Secure`: sent back over TLS only.
    pub secure: bool,
    /// `HttpOnly`: hidden from scripts.
    pub http_only: bool,
    /// `Partitioned` (CHIPS): kept apart for each top-level site. Browsers accept it only together with `Secure`.
    pub partitioned: bool,
}

impl fmt::Display for SetCookie<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}; Path={}", self.name, self.value, self.path)?;
        if let Some(domain) = self.domain {
            write!(f, "; Domain={domain}")?;
        }
        if let Some(seconds) = self.max_age_seconds {
            write!(f, "; Max-Age={seconds}")?;
        }
        if let Some(same_site) = self.same_site {
            write!(f, "; SameSite={same_site}")?;
        }
        let flags =
            [(self.secure, "; Secure"), (self.http_only, "; HttpOnly"), (self.partitioned, "; Partitioned")];
        flags.iter().filter(|(set, _)| *set).try_for_each(|(_, text)| f.write_str(text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{SessionId, Token};

    const VERIFIED: Verified = Verified {
        token: Token { session: SessionId::from_bytes([1; 16]), endpoint: [2; 16], started_seconds: 3 },
        signed_by_first_key: true,
    };

    /// Takes the value `good`, and refuses everything else as forged.
    fn claim_in(headers: &[&[u8]]) -> Claim {
        claim(headers.iter().copied(), "podpin-chat", |value| match value {
            b"good" => Ok(VERIFIED),
            b"" => Err(TokenError::Malformed),
            _ => Err(TokenError::Forged),
        })
    }

    #[test]
    fn our_cookie_is_found_among_others() {
        let pinned = Claim::Pinned(VERIFIED);
        let forged = Claim::Refused(TokenError::Forged);
        let malformed = Claim::Refused(TokenError::Malformed);
        let table: &[(&[&[u8]], Claim)] = &[
            (&[], Claim::None),
            (&[b""], Claim::None),
            (&[b"podpin-chat=good"], pinned),
            (&[b"a=b; podpin-chat=good"], pinned),
            (&[b"podpin-chat=good; a=b"], pinned),
            (&[b"a=b; podpin-chat=good; c=d"], pinned),
            (&[b"a=b;podpin-chat=good;c=d"], pinned),
            (&[b"a=b ;\t podpin-chat = good \t; c=d"], pinned),
            (&[b";;  ; podpin-chat=good;"], pinned),
            (&[b"a=b", b"podpin-chat=good", b"c=d"], pinned),
            (&[b"noequals; podpin-chat=good; another"], pinned),
            (&[b"\xff\xfe=\x80; podpin-chat=good; \xc3\x28"], pinned),
            (&[b"a=\"x; podpin-chat=good; y\""], pinned),
            (&[b"podpin-chat=bad"], forged),
            (&[b"podpin-chat=good=good"], forged),
            (&[b"podpin-chat=\"good\""], forged),
            (&[b"podpin-chat=go od"], forged),
            (&[b"podpin-chat=go\xffod"], forged),
            (&[b"podpin-chat="], malformed),
            (&[b"podpin-chat= ; a=b"], malformed),
            (&[b"podpin-chat=good; podpin-chat=good"], pinned),
            (&[b"podpin-chat=good; podpin-chat="], pinned),
            (&[b"podpin-chat=; podpin-chat=good"], pinned),
            (&[b"podpin-chat=other", b"a=b; podpin-chat=good"], pinned),
            (&[b"podpin-chat=other; podpin-chat="], forged),
            (&[b"podpin-chat=; podpin-chat=other"], malformed),
            (&[b"podpin-chat"], Claim::None),
            (&[b"podpin-chat; a=b"], Claim::None),
            (&[b"xpodpin-chat=good"], Claim::None),
            (&[b"podpin-chatx=good"], Claim::None),
            (&[b"podpin-cha=good"], Claim::None),
            (&[b"Podpin-Chat=good"], Claim::None),
            (&[b"=podpin-chat=good"], Claim::None),
            (&[b"a=podpin-chat=good"], Claim::None),
            (&[b"podpin-chat-next=good; podpin-chat=good; xpodpin-chat=bad"], pinned),
        ];
        for (headers, expected) in table {
            let shown: Vec<_> = headers.iter().map(|header| String::from_utf8_lossy(header)).collect();
            assert_eq!(claim_in(headers), *expected, "{shown:?}");
        }
    }

    #[test]
    fn our_cookie_is_taken_out_and_the_others_stay_as_they_are() {
        let table: &[(&[u8], Option<&[u8]>)] = &[
            (b"podpin-chat=x", None),
            (b" podpin-chat=x ; ", None),
            (b"podpin-chat=x; podpin-chat=y", None),
            (b"podpin-chat=x; a=b", Some(b"a=b")),
            (b"a=b; podpin-chat=x", Some(b"a=b")),
            (b"a=b; podpin-chat=x; c=d", Some(b"a=b; c=d")),
            (b"a=b;podpin-chat=x;c=d", Some(b"a=b;c=d")),
            (b"podpin-chat=x; a=b; podpin-chat=y; c=\"d\"", Some(b"a=b; c=\"d\"")),
            (b"a=b ;  podpin-chat=x;\tc = \xff\x80", Some(b"a=b ;\tc = \xff\x80")),
            (b"flag; podpin-chat=x", Some(b"flag")),
            (b"", Some(b"")),
            (b" ; ", Some(b" ; ")),
            (b"a=b;  xpodpin-chat=x; podpin-chat", Some(b"a=b;  xpodpin-chat=x; podpin-chat")),
        ];
        for (header, expected) in table {
            let left = without_cookie(header, "podpin-chat");
            assert_eq!(left.as_deref(), *expected, "{}", String::from_utf8_lossy(header));
        }
    }

    #[test]
    fn no_more_than_a_few_cookies_of_the_name_are_verified() {
        let mut planted = b"podpin-chat=planted; ".repeat(VERIFIED_MAX - 1);
        planted.extend_from_slice(b"podpin-chat=good");
        assert_eq!(claim_in(&[&planted]), Claim::Pinned(VERIFIED));
        planted.splice(0..0, *b"podpin-chat=planted; ");
        assert_eq!(claim_in(&[&planted]), Claim::Refused(TokenError::Forged));
    }

    #[test]
    fn a_header_without_our_cookie_is_not_copied() {
        assert!(matches!(without_cookie(b"a=b; c=d", "podpin-chat"), Some(Cow::Borrowed(_))));
    }

    #[test]
    fn every_attribute_is_written_as_browsers_read_it() {
        let plain = SetCookie {
            name: "podpin-chat",
            value: "AQ-_",
            path: "/",
            domain: None,
            max_age_seconds: None,
            same_site: Some(SameSite::Lax),
            secure: false,
            http_only: false,
            partitioned: false,
        };
        let table = [
            (plain, "podpin-chat=AQ-_; Path=/; SameSite=Lax"),
            (SetCookie { same_site: None, ..plain }, "podpin-chat=AQ-_; Path=/"),
            (SetCookie { path: "/events", ..plain }, "podpin-chat=AQ-_; Path=/events; SameSite=Lax"),
            (
                SetCookie { domain: Some("example.com"), ..plain },
                "podpin-chat=AQ-_; Path=/; Domain=example.com; SameSite=Lax",
            ),
            (
                SetCookie { max_age_seconds: Some(86_400), ..plain },
                "podpin-chat=AQ-_; Path=/; Max-Age=86400; SameSite=Lax",
            ),
            (
                SetCookie { max_age_seconds: Some(0), same_site: Some(SameSite::Strict), ..plain },
                "podpin-chat=AQ-_; Path=/; Max-Age=0; SameSite=Strict",
            ),
            (SetCookie { http_only: true, ..plain }, "podpin-chat=AQ-_; Path=/; SameSite=Lax; HttpOnly"),
            (
                SetCookie {
                    domain: Some("a.example"),
                    max_age_seconds: Some(1),
                    same_site: Some(SameSite::None),
                    secure: true,
                    http_only: true,
                    partitioned: true,
                    ..plain
                },
                "podpin-chat=AQ-_; Path=/; Domain=a.example; Max-Age=1; SameSite=None; Secure; HttpOnly; Partitioned",
            ),
        ];
        for (cookie, expected) in table {
            assert_eq!(cookie.to_string(), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_left_has_the_same_other_cookies_and_none_of_ours(
            cookies in proptest::collection::vec("(podpin-chat|xpodpin-chat|podpin-chat2|a|)(=[a-z=\" ]{0,4})?", 0..8),
            separator in "; ?",
        ) {
            let header = cookies.join(&separator).into_bytes();
            let others = |header: &[u8]| -> Vec<Vec<u8>> {
                pairs(header)
                    .filter(|pair| value_of(pair, "podpin-chat").is_none())
                    .map(|pair| pair.trim_ascii_start().to_vec())
                    .filter(|pair| !pair.is_empty())
                    .collect()
            };
            let left = without_cookie(&header, "podpin-chat").unwrap_or_default();
            prop_assert_eq!(claim_in(&[&left]), Claim::None);
            prop_assert_eq!(others(&left), others(&header));
        }
    }
}
