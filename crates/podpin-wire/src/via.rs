//! `Via`, by which proxies say that a message has passed them (RFC 9110 section 7.6.3), and loops that show in it.

use http::{HeaderValue, Version, header};

use crate::fields::Fields;
use crate::header_list::HeaderList;

/// The name of a proxy in `Via`.
#[derive(Clone, Debug)]
pub struct Via {
    pseudonym: String,
    /// Items for messages that came over HTTP/1.0, HTTP/1.1 and HTTP/2.
    items: [HeaderValue; 3],
}

impl Via {
    /// Returns the name `podpin-` with this number: one that no other proxy on the way has, and that names no machine.
    #[must_use]
    pub fn new(number: u32) -> Via {
        let pseudonym = format!("podpin-{number:08x}");
        let items = ["1.0", "1.1", "2"].map(|version| {
            let item = format!("{version} {pseudonym}");
            HeaderValue::try_from(item).unwrap_or(HeaderValue::from_static("1.1 podpin"))
        });
        Via { pseudonym, items }
    }

    /// Adds the proxy to the fields of a message that it received in `version`.
    pub fn write<'a>(&'a self, version: Version, fields: &mut HeaderList<'a>) {
        let [http10, http11, http2] = &self.items;
        let item = match version {
            Version::HTTP_10 => http10,
            Version::HTTP_2 => http2,
            _ => http11,
        };
        fields.append(b"via", item.as_bytes());
    }

    /// Returns whether a message has passed this proxy before.
    #[must_use]
    pub fn is_in(&self, fields: &Fields) -> bool {
        let mut items = fields.all(&header::VIA).flat_map(|value| value.split(|byte| *byte == b','));
        items.any(|item| {
            let mut words = item.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
            words.nth(1).is_some_and(|name| name.eq_ignore_ascii_case(self.pseudonym.as_bytes()))
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn fields(values: &[&'static str]) -> Fields {
        let values = values.iter().map(|value| (header::VIA, HeaderValue::from_static(value)));
        Fields::from(&values.collect::<HeaderMap>())
    }

    #[test]
    fn a_message_that_has_passed_before_is_found_in_any_list() {
        let via = Via::new(0x2a);
        for (values, expected) in [
            (&["1.1 podpin-0000002a"][..], true),
            (&["1.0 fred, 2  PODPIN-0000002a (a comment)"], true),
            (&["1.1 other"], false),
            (&["1.1 podpin-0000002b, podpin-0000002a 1.1"], false),
            (&[], false),
            (&["", ",,", " "], false),
        ] {
            assert_eq!(via.is_in(&fields(values)), expected, "{values:?}");
        }
    }

    #[test]
    fn an_item_says_how_the_message_came_and_follows_the_others() {
        let via = Via::new(1);
        let mut fields = HeaderList::default();
        fields.append(b"via", b"1.0 fred");
        let versions = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2];
        versions.into_iter().for_each(|version| via.write(version, &mut fields));
        let all: Vec<_> = fields.iter().map(|(_, item)| std::str::from_utf8(item).unwrap()).collect();
        assert_eq!(all, ["1.0 fred", "1.0 podpin-00000001", "1.1 podpin-00000001", "2 podpin-00000001"]);
    }
}
