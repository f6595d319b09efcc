//! Laws over the parsers and header rules of `podpin-wire`: what holds of any bytes that reach them.

use std::net::IpAddr;

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use podpin_config::Cidr;
use podpin_wire::client::Client;
use podpin_wire::fields::Fields;
use podpin_wire::header_list::HeaderList;
use podpin_wire::http1::body::{BodyDecoder, FIRST_CHUNK, Piece};
use podpin_wire::http1::request_head::{self, HeadError, Scan};
use podpin_wire::http1::response_head::{self, ParsedHead};
use podpin_wire::proxy_protocol::{self, Parsed};
use podpin_wire::{forwarding, headers};

/// The first byte says in which pieces a request comes; the rest is what a client sends.
pub fn request_head(input: &[u8]) {
    let [step, bytes @ ..] = input else { return };
    let whole = request_head::scan(bytes, 0);
    assert_eq!(scan_in_pieces(bytes, usize::from(*step).max(1)), whole, "the pieces matter");
    let Ok(Scan::Complete(length)) = whole else { return };
    let only = bytes.get(..length).unwrap_or_default();
    let Ok((framing, head)) = request_head::read(only) else { return };
    let (target, authority) = (head.target(), head.authority());
    assert!(target.starts_with('/') || target == "*", "{target:?}");
    assert!(authority.is_empty() || request_head::check_authority(authority).is_ok());
    assert!(!framing.event_stream || head.method == http::Method::GET);
    assert!(head.fields.all(&header::HOST).count() <= 1, "two hosts");
    assert!(head.fields.all(&header::CONTENT_LENGTH).count() <= 1, "two lengths");
    let is_passable = |(name, value): (&[u8], &[u8])| {
        HeaderName::from_bytes(name).is_ok() && HeaderValue::from_bytes(value).is_ok()
    };
    assert!(head.fields.iter().all(is_passable), "a field that cannot be passed on");
    let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].map(|name| head.fields.contains(&name));
    assert_ne!(framed, [true, true], "a length beside chunks");
}

fn scan_in_pieces(bytes: &[u8], step: usize) -> Result<Scan, HeadError> {
    let mut seen = 0;
    while seen < bytes.len() {
        let end = (seen + step).min(bytes.len());
        match request_head::scan(bytes.get(..end).unwrap_or(bytes), seen) {
            Ok(Scan::Partial) => seen = end,
            ended => return ended,
        }
    }
    Ok(Scan::Partial)
}

/// The first byte says in which pieces a PROXY header and more comes; the rest is what a load balancer sends.
pub fn proxy_protocol(input: &[u8]) {
    let [step, bytes @ ..] = input else { return };
    let whole = proxy_protocol::parse(bytes);
    let mut seen = 0;
    while seen < bytes.len() {
        seen = (seen + usize::from(*step).max(1)).min(bytes.len());
        match proxy_protocol::parse(bytes.get(..seen).unwrap_or(bytes)) {
            Ok(Parsed::Partial) => {}
            decided => assert_eq!(decided, whole, "the pieces matter"),
        }
    }
    if let Ok(Parsed::Header { length, .. }) = whole {
        assert!(
            length <= bytes.len().min(proxy_protocol::HEADER_BYTES_MAX),
            "{length} bytes of {}",
            bytes.len()
        );
        assert_eq!(proxy_protocol::parse(bytes.get(..length).unwrap_or_default()), whole);
    }
}

/// The first byte says in which pieces a response comes; the rest is what a pod sends.
pub fn upstream_response(input: &[u8]) {
    let [step, bytes @ ..] = input else { return };
    let step = usize::from(*step).max(1);
    the_pieces_of_a_body_do_not_matter(BodyDecoder::Chunked(FIRST_CHUNK), bytes, step);
    let Ok(Some(parsed)) = response_head::parse_head(bytes, &Method::GET) else { return };
    let ParsedHead { length, body, .. } = parsed;
    let shorter = bytes.get(..length.saturating_sub(1)).unwrap_or_default();
    assert!(
        !matches!(response_head::parse_head(shorter, &Method::GET), Ok(Some(_))),
        "a head that ends twice"
    );
    the_pieces_of_a_body_do_not_matter(body, bytes.get(length..).unwrap_or_default(), step);
}

fn the_pieces_of_a_body_do_not_matter(decoder: BodyDecoder, bytes: &[u8], step: usize) {
    let whole = decode(decoder, bytes, bytes.len().max(1));
    for step in [step, 1] {
        assert_eq!(decode(decoder, bytes, step), whole, "in pieces of {step}");
    }
}

/// The data of a body, and how it went on: ended, unfinished (with what the end of the connection would mean) or broken.
fn decode(mut decoder: BodyDecoder, bytes: &[u8], step: usize) -> (Vec<u8>, &'static str, bool) {
    let mut data = Vec::new();
    for mut piece in bytes.chunks(step) {
        loop {
            match decoder.decode(&mut piece) {
                Ok(Piece::Data(some)) => data.extend_from_slice(some),
                Ok(Piece::Trailers(lines)) => drop(podpin_wire::trailers::passed(lines)),
                Ok(Piece::More) => break,
                Ok(Piece::End) => return (data, "ended", true),
                Err(_) => return (data, "broken", false),
            }
        }
    }
    (data, "unfinished", decoder.ends_at_close())
}

/// The first line is the authority, its first byte says who asks; the others are header lines.
pub fn forwarding(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let Some((who, authority)) = first.split_first() else { return };
    let Ok(authority) = std::str::from_utf8(authority) else { return };
    if request_head::check_authority(authority).is_err() {
        return;
    }
    let headers: HeaderMap = lines.filter_map(header_line).collect();
    let peers = ["10.0.0.1", "192.0.2.1", "::1", "2001:db8::1", "::ffff:10.0.0.1"];
    let peer = peers.get(usize::from(*who) % peers.len()).and_then(|text| text.parse().ok());
    let Some(peer) = peer else { return };
    let trusted: Vec<Cidr> = ["10.0.0.0/8", "::1/128"].iter().filter_map(|text| text.parse().ok()).collect();
    let client = Client::of(peer, *who > 127, &Fields::from(&headers), &trusted);
    nobody_else_says_who_asks(&headers, &client, authority);
    only_what_goes_to_the_end_passes(&headers, &client);
}

fn header_line(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let at = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at_checked(at)?;
    let value = value.get(1..)?.trim_ascii();
    Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
}

fn nobody_else_says_who_asks(headers: &HeaderMap, client: &Client, authority: &str) {
    let received = Fields::from(headers);
    let mut list = HeaderList::default();
    forwarding::write_forwarding(&mut list, &received, client, authority);
    let lines = list.to_map();
    assert_eq!(lines.len(), list.iter().count(), "a field that cannot be passed on");
    let text = |wanted: &str| lines.get(wanted).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let peer = client.peer.to_string();
    let last = text("x-forwarded-for").rsplit(", ").next();
    assert_eq!(last, Some(peer.as_str()), "the last hop is the peer");
    assert_eq!(text("x-real-ip").parse::<IpAddr>().ok(), Some(client.address));
    let own = text("forwarded").rsplit(", ").next().unwrap_or_default();
    let quotes = own.bytes().filter(|byte| *byte == b'"').count();
    assert!(own.starts_with("for=") && quotes % 2 == 0, "{own:?} is not one element");
    if !client.trusted {
        assert_eq!((client.address, text("x-forwarded-for")), (client.peer, peer.as_str()));
        assert_eq!(text("x-forwarded-host"), authority);
        assert!(["http", "https"].contains(&text("x-forwarded-proto")));
        assert_eq!(own, text("forwarded"));
    }
}

fn only_what_goes_to_the_end_passes(headers: &HeaderMap, client: &Client) {
    let nominated: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|list| list.as_bytes().split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .collect();
    for passed in [
        headers::request_headers(&Fields::from(headers), client).to_map(),
        headers::response_headers(headers.clone(), |value| headers::sets_cookie(value, "podpin-chat")),
    ] {
        for (name, value) in &passed {
            let name = name.as_str();
            let near = ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
            assert!(!near.contains(&name) && !name.starts_with("x-podpin-"), "{name} crosses");
            assert!(nominated.iter().all(|nominee| nominee != name), "{name} crosses although nominated");
            assert!(headers.get_all(name).iter().any(|had| had == value), "{name} was made up");
        }
    }
    if let Some(private) = headers::private_cache_control(headers) {
        let directives = private.to_str().unwrap_or_default().split(',').map(str::trim);
        let kinds: Vec<_> = directives.map(str::to_ascii_lowercase).collect();
        assert!(kinds.iter().any(|kind| kind == "private") && kinds.iter().all(|kind| kind != "public"));
    }
}
