//! A plain, slow parser of event streams, written down sentence by sentence from the WHATWG HTML standard, sections
//! 9.2.5 and 9.2.6. It sees the whole stream at once and shares no code with the framer.

/// A client's reading of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interpretation {
    /// Dispatched events in order.
    pub(crate) events: Vec<Event>,
    /// Every reconnection time that was set, in order.
    pub(crate) reconnection_times: Vec<String>,
    /// The last event ID string of the event source.
    pub(crate) last_event_id: String,
}

/// A dispatched event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) data: String,
    pub(crate) last_event_id: String,
}

/// The buffers of the section "Interpreting an event stream".
#[derive(Default)]
struct Buffers {
    data: String,
    event_type: String,
    last_event_id: String,
}

/// Interprets a stream that ends after `stream`.
pub(crate) fn interpret(stream: &[u8]) -> Interpretation {
    let mut interpretation = Interpretation::default();
    let mut buffers = Buffers::default();
    for line in lines(&decode(stream)) {
        if line.is_empty() {
            dispatch(&mut buffers, &mut interpretation);
        } else if line.starts_with(':') {
            // Ignore the line.
        } else if let Some((field, value)) = line.split_once(':') {
            let value = value.strip_prefix(' ').unwrap_or(value);
            process(field, value, &mut buffers, &mut interpretation);
        } else {
            process(&line, "", &mut buffers, &mut interpretation);
        }
    }
    // Once the end of the file is reached, any pending data must be discarded.
    interpretation
}

/// "Streams must be decoded using the UTF-8 decode algorithm", which strips one leading byte order mark.
fn decode(stream: &[u8]) -> String {
    String::from_utf8_lossy(stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream)).into_owned()
}

/// Lines ended by CRLF, LF or CR. What follows the last line end is no line yet.
fn lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' => {
                characters.next_if_eq(&'\n');
                lines.push(std::mem::take(&mut line));
            }
            '\n' => lines.push(std::mem::take(&mut line)),
            other => line.push(other),
        }
    }
    lines
}

fn process(field: &str, value: &str, buffers: &mut Buffers, interpretation: &mut Interpretation) {
    match field {
        "event" => buffers.event_type = value.to_owned(),
        "data" => {
            buffers.data.push_str(value);
            buffers.data.push('\n');
        }
        "id" if !value.contains('\0') => buffers.last_event_id = value.to_owned(),
        "retry" if !value.is_empty() && value.chars().all(|character| character.is_ascii_digit()) => {
            interpretation.reconnection_times.push(value.to_owned());
        }
        _ => {}
    }
}

fn dispatch(buffers: &mut Buffers, interpretation: &mut Interpretation) {
    interpretation.last_event_id.clone_from(&buffers.last_event_id);
    let kind = std::mem::take(&mut buffers.event_type);
    let mut data = std::mem::take(&mut buffers.data);
    if data.is_empty() {
        return;
    }
    if data.ends_with('\n') {
        data.pop();
    }
    interpretation.events.push(Event {
        kind: if kind.is_empty() { "message".to_owned() } else { kind },
        data,
        last_event_id: buffers.last_event_id.clone(),
    });
}

#[test]
fn the_examples_of_the_standard_are_interpreted_as_it_says() {
    let data = |stream: &str| -> Vec<String> {
        interpret(stream.as_bytes()).events.into_iter().map(|event| event.data).collect()
    };
    assert_eq!(data("data: YHOO\ndata: +2\ndata: 10\n\n"), ["YHOO\n+2\n10"]);
    assert_eq!(data("data\n\ndata\ndata\n\ndata:"), ["", "\n"]);
    assert_eq!(data("data:test\n\ndata: test\n\n"), ["test", "test"]);

    let four = interpret(
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
    );
    let seen: Vec<_> =
        four.events.iter().map(|event| (event.data.as_str(), event.last_event_id.as_str())).collect();
    assert_eq!(seen, [("first event", "1"), ("second event", ""), (" third event", "")]);
}
