//! Event streams of any pod: however they are cut, the client reads what the pod wrote, and nothing is held without end.

#[path = "../../podpin-sse/tests/framing/reference.rs"]
mod reference;

use podpin_sse::Framer;

use self::reference::interpret;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The reference reads everything from the beginning each time: longer streams are looked at once.
const LOOKED_AT_OFTEN: usize = 200;
/// The framer keeps the beginning of a line and of an id beside what it holds.
const SLACK_BYTES: usize = podpin_sse::ID_BYTES_MAX + 5;

/// The first two bytes say where the stream is cut and how much of an event is held; the rest is the stream.
pub fn event_stream(input: &[u8]) {
    let [cut, limit, stream @ ..] = input else { return };
    let cut = usize::from(*cut).max(1);
    let limit = if *limit > 127 { 1 << 20 } else { usize::from(*limit) };
    for with_cursor in [false, true] {
        let framer = || if with_cursor { Framer::with_cursor(limit, 64) } else { Framer::new(limit) };
        let (mut whole, mut all) = (framer(), Vec::new());
        let events = whole.push(stream, &mut all).events;
        let (mut pieces, mut out, mut counted, mut came) = (framer(), Vec::new(), 0, Vec::new());
        for piece in stream.chunks(cut) {
            counted += pieces.push(piece, &mut out).events;
            came.extend_from_slice(piece);
            if stream.len() <= LOOKED_AT_OFTEN {
                assert_eq!(interpret(&out).events, interpret(&came).events, "an event is held back or torn");
            }
            assert!(pieces.held_bytes() <= limit + SLACK_BYTES, "{} bytes held", pieces.held_bytes());
        }
        assert_eq!((counted, pieces.last_event_id()), (events, whole.last_event_id()));
        let client = interpret(&out);
        let id = String::from_utf8_lossy(pieces.last_event_id().unwrap_or_default()).into_owned();
        assert!(pieces.id_too_long() || id == client.last_event_id, "{id:?} is not what the client has");
        assert_eq!(interpret(&out).events, interpret(&came).events, "an event is held back or torn");
        let retries = interpret(&came).reconnection_times;
        assert!(retries.starts_with(&client.reconnection_times), "a reconnection time of our own");
        assert_eq!(client.events.len(), usize::try_from(counted).unwrap_or(usize::MAX));
        for sent in [&all, &out] {
            let unmarked = stream.strip_prefix(BYTE_ORDER_MARK).unwrap_or(stream);
            assert!(stream.starts_with(sent) || unmarked.starts_with(sent), "not what the pod wrote");
        }
    }
}
