//! The memory of connections and streams, counted by the allocator.

use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use podpin_h2::{Config, Connection, End, Event, Millis, Trust};

use crate::client::*;

/// Returns the memory that a call of the closure leaves allocated.
fn kept<T>(made: &mut Option<T>, make: impl FnOnce() -> T) -> usize {
    let info: AllocationInfo = measure(|| *made = Some(make()));
    usize::try_from(info.bytes_current).unwrap()
}

#[test]
fn an_idle_connection_occupies_at_most_512_bytes() {
    let config = Arc::new(Config::default());
    let mut out = Vec::with_capacity(100_000);
    let mut made = None;
    let heap = kept(&mut made, || {
        let mut connection = Connection::accept(Arc::clone(&config), Trust::Client, Millis(0), &mut out);
        let bytes = [PREFACE, &settings(&[]), &get(1), &get(3)].concat();
        let mut input = &bytes[..];
        while let Some(event) = connection.receive(Millis(0), &mut input, &mut out) {
            let Event::Request { stream, .. } = event else { panic!("no request") };
            connection.stream(stream, Millis(0), &mut out).unwrap().head(204, [], End::Yes).unwrap();
        }
        connection
    });
    let connection = made.unwrap();
    assert_eq!((connection.open_streams(), connection.heap_bytes()), (0, heap), "heap is counted right");
    let bytes = size_of::<Connection>() + heap;
    assert!(bytes <= 512, "{} inline and {heap} of heap", size_of::<Connection>());
}

#[test]
fn a_stream_occupies_at_most_256_bytes() {
    let config = Arc::new(Config::default());
    for count in [1, 2, 20, 100] {
        let mut out = Vec::with_capacity(100_000);
        let requests: Vec<u8> = (0..count).flat_map(|number| get(2 * number + 1)).collect();
        let mut connection = Connection::accept(Arc::clone(&config), Trust::Client, Millis(0), &mut out);
        let begin = [PREFACE, &settings(&[])].concat();
        assert!(connection.receive(Millis(0), &mut &begin[..], &mut out).is_none());
        let mut made = None;
        let heap = kept(&mut made, || {
            let mut input = &requests[..];
            while connection.receive(Millis(0), &mut input, &mut out).is_some() {}
        });
        let each = heap / usize::try_from(count).unwrap();
        assert!(each <= 256, "{each} bytes for each of {count}");
    }
}

#[test]
fn a_head_occupies_its_bytes() {
    let fields = [&GET[..], &[("x", "y"); 90]].concat();
    let mut server = Server::new();
    let bytes = request(1, END_STREAM, &fields);
    let mut input = &bytes[..];
    let Some(Event::Request { head, .. }) =
        server.connection.receive(server.now, &mut input, &mut server.out)
    else {
        panic!("no request");
    };
    assert!(head.heap_bytes() <= 90 * 6 + 70, "{}", head.heap_bytes());
    assert!(size_of_val(&*head) <= 160, "{}", size_of_val(&*head));
}

#[test]
fn events_and_bodies_are_sent_without_an_allocation() {
    let mut server = Server::new();
    server.feed(&get(1));
    server.stream(1).head(200, [], End::No).unwrap();
    server.out.reserve(100_000);
    let info = measure(|| {
        for _ in 0..100 {
            assert_eq!(server.stream(1).data(b"data: an event\n\n", End::No), Ok(16));
        }
    });
    assert_eq!(info.count_total, 0);
}
