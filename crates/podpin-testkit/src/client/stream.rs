//! An event stream that is being received, over HTTP/1 or HTTP/2.

use bytes::Bytes;

use crate::in_time;
use crate::sse::{Event, EventParser, Item};
use crate::wire::{Body, Ending, Head, Wire};

#[derive(Debug)]
enum Source {
    Http1 { wire: Wire, body: Body },
    Http2 { body: h2::RecvStream },
}

/// An event stream. Dropping it leaves the server, as a closed tab does.
#[derive(Debug)]
pub struct EventStream {
    /// The head of the response (its fields only, over HTTP/2).
    pub head: Head,
    source: Source,
    parser: EventParser,
    received: Vec<u8>,
    ending: Option<Ending>,
}

impl EventStream {
    pub(super) fn http1(head: Head, wire: Wire, body: Body) -> EventStream {
        EventStream::new(head, Source::Http1 { wire, body })
    }

    pub(crate) fn http2(head: Head, body: h2::RecvStream) -> EventStream {
        EventStream::new(head, Source::Http2 { body })
    }

    fn new(head: Head, source: Source) -> EventStream {
        EventStream { head, source, parser: EventParser::default(), received: Vec::new(), ending: None }
    }

    /// The value of the first field of that name in the response's head.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The next event, comment or `retry:`.
    ///
    /// # Errors
    /// How the stream ended.
    pub async fn next(&mut self) -> Result<Item, Ending> {
        in_time("the next item of an event stream", self.next_item()).await
    }

    /// The next event; comments and `retry:` are passed over.
    ///
    /// # Panics
    /// When the stream ends first.
    pub async fn next_event(&mut self) -> Event {
        loop {
            match self.next().await {
                Ok(Item::Event(event)) => return event,
                Ok(Item::Comment(_) | Item::Retry(_)) => {}
                Err(ending) => panic!("the stream ended ({ending:?}) before its next event: {}", self.text()),
            }
        }
    }

    /// The `data` of the next event.
    ///
    /// # Panics
    /// When the stream ends first.
    pub async fn next_data(&mut self) -> String {
        self.next_event().await.data
    }

    /// Everything that still comes, and how the stream ends.
    pub async fn rest(&mut self) -> (Vec<Item>, Ending) {
        let mut items = Vec::new();
        loop {
            match self.next().await {
                Ok(item) => items.push(item),
                Err(ending) => return (items, ending),
            }
        }
    }

    /// Reads the rest of a body that is no event stream; how it ended.
    pub(crate) async fn drain(&mut self) -> Ending {
        loop {
            match in_time("more of a body", self.source.next()).await {
                Ok(data) => self.received.extend_from_slice(&data),
                Err(ending) => return ending,
            }
        }
    }

    /// Reads on until the body so far contains `text`.
    ///
    /// # Panics
    /// When the stream ends first.
    pub async fn until_contains(&mut self, text: &str) {
        while !self.text().contains(text) {
            let read = in_time("more of an event stream", self.read()).await;
            read.unwrap_or_else(|ending| panic!("ended ({ending:?}) without {text:?}: {}", self.text()));
        }
    }

    /// The body so far, as it came.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// The body so far as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }

    /// Whether the body so far stops inside an event.
    pub fn is_inside_event(&self) -> bool {
        self.parser.is_inside_event()
    }

    /// Leaves with a RST.
    pub fn reset(self) {
        if let Source::Http1 { wire, .. } = &self.source {
            wire.reset_on_close();
        }
    }

    /// Hands the connection back after a clean end: for the next request on it.
    ///
    /// # Panics
    /// Over HTTP/2.
    pub fn into_connection(self) -> super::Connection {
        match self.source {
            Source::Http1 { wire, .. } => super::Connection { wire },
            Source::Http2 { .. } => panic!("an HTTP/2 stream has no connection of its own"),
        }
    }

    async fn next_item(&mut self) -> Result<Item, Ending> {
        loop {
            if let Some(item) = self.parser.pop() {
                return Ok(item);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Ending> {
        if let Some(ending) = &self.ending {
            return Err(ending.clone());
        }
        match self.source.next().await {
            Ok(data) => {
                self.received.extend_from_slice(&data);
                self.parser.push(&data);
                Ok(())
            }
            Err(ending) => {
                self.ending = Some(ending.clone());
                Err(ending)
            }
        }
    }
}

impl Source {
    async fn next(&mut self) -> Result<Bytes, Ending> {
        match self {
            Source::Http1 { wire, body } => body.next(wire).await,
            Source::Http2 { body } => match body.data().await {
                None => Err(Ending::Clean),
                Some(Ok(data)) => {
                    // The window is what the test has not read yet: give back what it has.
                    let _closed = body.flow_control().release_capacity(data.len());
                    Ok(data)
                }
                Some(Err(error)) if error.is_reset() => Err(Ending::Reset),
                Some(Err(_)) => Err(Ending::Cut),
            },
        }
    }
}
