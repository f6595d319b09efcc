//! Laws that hold for any bytes: no panic, the same events however they are cut, bounded memory.

use podpin_h2::{Config, End, Event, Trust};
use proptest::prelude::*;

use crate::client::*;

/// Events and frames of bytes that come in these pieces, answered by the number of their stream. Windows depend on
/// how much is consumed at once and are left out.
fn run(bytes: &[u8], cuts: &[usize]) -> (Vec<Seen>, Vec<Frame>) {
    let config = Config { head_bytes_max: 600, head_fields_max: 8, streams_max: 4, ..Config::default() };
    let mut server = Server::fresh(config, Trust::Client);
    let (mut seen, mut rest) = (Vec::new(), bytes);
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, left) = rest.split_at((*cut).min(rest.len()));
        rest = left;
        let mut input = piece;
        while let Some(event) = server.connection.receive(server.now, &mut input, &mut server.out) {
            answer(&mut server, &event);
            Seen::of(&event).add(&mut seen);
        }
        assert!(server.connection.heap_bytes() <= 60 * 1024);
        assert!(input.is_empty());
    }
    let mut frames = server.sent();
    frames.retain(|frame| frame.kind != WINDOW_UPDATE);
    (seen, frames)
}

fn answer(server: &mut Server, event: &Event<'_>) {
    match event {
        Event::Request { stream, .. } => {
            let number = stream.get();
            let mut stream = server.stream(number);
            match number % 5 {
                0 => stream.reset(podpin_h2::ErrorCode::CANCEL),
                1 => stream.head(204, [], End::Yes).unwrap(),
                2 => stream.head(200, [], End::No).unwrap(),
                _ => {}
            }
        }
        Event::Data { stream, bytes, .. } => {
            if let Some(mut stream) = server.find(stream.get()) {
                stream.consumed(bytes.len());
            }
        }
        Event::Refused { stream, refusal } => {
            server.stream(stream.get()).head(refusal.status(), [], End::Yes).unwrap()
        }
        Event::Trailers { .. } | Event::Reset { .. } | Event::Closed(_) => {}
    }
}

fn blocks() -> impl Strategy<Value = Vec<u8>> {
    let fields = |more: &[(&str, &str)]| block(&[&POST[..], more].concat());
    prop_oneof![
        4 => Just(block(&GET)),
        2 => Just(fields(&[("content-length", "5")])),
        1 => Just(fields(&[("te", "gzip")])),
        1 => Just(fields(&[("x", "y"); 9])),
        1 => Just(fields(&[("x", &"y".repeat(700))])),
        1 => Just(fields(&[("cookie", "a"), ("x", "y"), ("cookie", "b")])),
        1 => Just([&[0x40, 1, b'n', 1, b'v', 0xbe, 0xbe][..], &block(&GET)].concat()),
        2 => Just(block(&[("x-trailer", "1")])),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let stream = || prop_oneof![8 => (0_u32..12).prop_map(|number| 2 * number + 1), 1 => 0_u32..5];
    prop_oneof![
        6 => (stream(), blocks(), 0_u8..2).prop_map(|(stream, block, ends)| frame(HEADERS, END_HEADERS | ends, stream, &block)),
        2 => (stream(), blocks(), blocks(), 0_usize..30).prop_map(|(stream, block, _, at)| {
            let (first, second) = block.split_at(at.min(block.len()));
            [frame(HEADERS, 0, stream, first), frame(CONTINUATION, END_HEADERS, stream, second)].concat()
        }),
        6 => (stream(), prop::collection::vec(any::<u8>(), 0..50), 0_u8..2).prop_map(|(stream, bytes, ends)| frame(DATA, ends, stream, &bytes)),
        1 => (stream(), 0_u8..9).prop_map(|(stream, padding)| frame(DATA, 0x8, stream, &[padding, 1, 2, 3, 4, 5])),
        1 => stream().prop_map(reset),
        1 => (stream(), 0_u32..9).prop_map(|(stream, increment)| window_update(stream, increment)),
        1 => Just(settings(&[(4, 100), (5, 20_000)])),
        1 => Just(frame(PING, 0, 0, &[7; 8])),
        1 => (stream(), stream()).prop_map(|(stream, on)| frame(PRIORITY, 0, stream, &[&on.to_be_bytes()[..], &[0]].concat())),
        1 => (any::<u8>(), any::<u8>(), stream(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_same_bytes_cut_differently_give_the_same_events(
        frames in prop::collection::vec(frames(), 0..30),
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let bytes = [PREFACE, &settings(&[]), &frames.concat()].concat();
        prop_assert_eq!(run(&bytes, &cuts), run(&bytes, &[1_000_000]));
    }

    #[test]
    fn any_bytes_give_the_same_events(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let bytes = [PREFACE, &settings(&[]), &bytes].concat();
        prop_assert_eq!(run(&bytes, &cuts), run(&bytes, &[1_000_000]));
    }
}
