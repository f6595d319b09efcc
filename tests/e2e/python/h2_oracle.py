"""A second reading of HTTP/2: the `h2` library of PyPI judges every frame that the proxy sends.

Usage: h2_oracle.py PORT. Scenes on one connection each, over plaintext with prior knowledge. A frame that breaks RFC 9113
or 7541 raises an exception, and the script fails. Prints one line of JSON for each scene.
"""

import json
import socket
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings


class Client:
    """A connection with the settings of a scene."""

    def __init__(self, port, settings=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config=config)
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(settings)
        self.answers, self.ended = {}, set()
        self.pongs, self.reset, self.closed = 0, {}, None
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def get(self, path, method="GET", ends=True, extra=()):
        stream = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path)]
        self.h2.send_headers(stream, fields + list(extra), end_stream=ends)
        self.answers[stream] = {"status": None, "body": b"", "trailers": []}
        self.flush()
        return stream

    def turn(self):
        """Reads once."""
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the proxy closed the connection")
        for event in self.h2.receive_data(data):
            self.on(event)
        self.flush()

    def on(self, event):
        if isinstance(event, h2.events.ResponseReceived):
            self.answers[event.stream_id]["status"] = dict(event.headers)[":status"]
        elif isinstance(event, h2.events.TrailersReceived):
            self.answers[event.stream_id]["trailers"] = [list(field) for field in event.headers]
        elif isinstance(event, h2.events.DataReceived):
            self.answers[event.stream_id]["body"] += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.reset[event.stream_id] = int(event.error_code)
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.closed = int(event.error_code)

    def until(self, done):
        while not done():
            self.turn()

    def whole(self, *streams):
        self.until(lambda: self.ended.issuperset(streams))
        return [(self.answers[stream]["status"], len(self.answers[stream]["body"])) for stream in streams]


def say(**fields):
    print(json.dumps(fields), flush=True)


def many(port):
    """Fifty requests at once, two of them large, whose bodies are taken as windows allow."""
    client = Client(port)
    streams = [client.get("/large" if index % 25 == 0 else "/small") for index in range(50)]
    say(scene="many", answers=sorted(set(client.whole(*streams))))


def small_windows(port):
    """A stream window of one byte, and one of zero that is opened later."""
    settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1}
    client = Client(port, settings)
    one = client.get("/small")
    say(scene="window of 1", answers=client.whole(one))
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    client.flush()
    client.h2.ping(b"12345678")
    client.flush()
    client.until(lambda: client.pongs == 1)
    shut = client.get("/small")
    client.until(lambda: client.answers[shut]["status"] is not None)
    before = len(client.answers[shut]["body"])
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65535})
    client.flush()
    say(scene="window of 0", before=before, answers=client.whole(shut))


def tables(port):
    """HPACK tables of the client that shrink to nothing and grow again."""
    client = Client(port)
    for size in (0, 4096, 64, 65536):
        client.h2.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
        client.flush()
        say(scene=f"table of {size}", answers=client.whole(client.get("/small")))


def uploads(port):
    """A body in pieces, with trailers behind it; one that is given up; and a HEAD."""
    client = Client(port)
    stream = client.get("/small", "POST", ends=False)
    for _ in range(40):
        client.until(lambda: client.h2.local_flow_control_window(stream) >= 4096)
        client.h2.send_data(stream, b"x" * 4096, pad_length=7)
        client.flush()
    client.h2.send_headers(stream, [("x-sum", "abc")], end_stream=True)
    client.flush()
    given_up = client.get("/small", "POST", ends=False)
    client.h2.send_data(given_up, b"half")
    client.h2.reset_stream(given_up, 8)
    client.flush()
    head = client.get("/large", "HEAD")
    say(scene="uploads", answers=client.whole(stream, head))


def events(port):
    """An event stream beside requests, and its reset."""
    client = Client(port)
    stream = client.get("/events", extra=[("accept", "text/event-stream")])
    client.until(lambda: client.answers[stream]["body"].endswith(b"\n\n"))
    answers = client.whole(client.get("/small"))
    client.h2.reset_stream(stream, 8)
    client.flush()
    say(scene="events", body=client.answers[stream]["body"].decode(), answers=answers + client.whole(client.get("/small")))


if __name__ == "__main__":
    for play in (many, small_windows, tables, uploads, events):
        play(int(sys.argv[1]))
