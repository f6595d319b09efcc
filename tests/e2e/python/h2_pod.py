"""A pod that speaks HTTP/2 by the `h2` library of PyPI and does odd things with it.

Usage: h2_pod.py [KEY=VALUE]... with `streams` and `window` for its settings, `late=1` for settings that come behind the first
request. Prints its port, then a line of JSON for each request and for what becomes of it. The path says what is done.
"""

import json
import socket
import sys
import threading

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

Codes = h2.settings.SettingCodes
lock = threading.Lock()
seen = {}
ARGUMENTS = dict(argument.split("=") for argument in sys.argv[1:])


def say(**fields):
    with lock:
        print(json.dumps(fields), flush=True)


def is_first(path):
    with lock:
        seen[path] = seen.get(path, 0) + 1
        return seen[path] == 1


class Connection:
    def __init__(self, peer, number):
        self.socket, self.number = peer, number
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8", validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config=config)
        self.bodies, self.paths, self.waiting = {}, {}, []
        self.settled = False
        if "late" not in ARGUMENTS:
            self.settle()

    def settle(self):
        """Sends the settings."""
        self.settled = True
        settings = {Codes.MAX_CONCURRENT_STREAMS: int(ARGUMENTS.get("streams", 100))}
        if "window" in ARGUMENTS:
            settings[Codes.INITIAL_WINDOW_SIZE] = int(ARGUMENTS["window"])
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values={**self.h2.local_settings, **settings})
        self.h2.initiate_connection()
        self.flush()

    def flush(self):
        if self.settled:
            self.socket.sendall(self.h2.data_to_send())

    def head(self, stream, fields=(), status="200", ends=False):
        self.h2.send_headers(stream, [(":status", status), *fields], end_stream=ends)

    def answer(self, stream, body, fields=(), trailers=None):
        self.head(stream, fields)
        self.h2.send_data(stream, body, end_stream=trailers is None)
        if trailers is not None:
            self.h2.send_headers(stream, trailers, end_stream=True)

    def on_head(self, stream, path):
        """What is done at once; true if the request is over with that."""
        name = path.strip("/").split("?")[0]
        if name == "goaway" and is_first(path):
            self.h2.close_connection(last_stream_id=max(0, stream - 2))
            self.flush()
            return "close"
        if name == "refused" and is_first(path):
            self.h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
        elif name == "always-refused":
            self.h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
        elif name == "reset":
            self.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        elif name == "early":
            self.answer(stream, b"early")
            self.h2.reset_stream(stream, h2.errors.ErrorCodes.NO_ERROR)
        elif name == "hold":
            self.head(stream)
            self.h2.send_data(stream, b"held")
        elif name == "events":
            self.head(stream, [("content-type", "text/event-stream")])
            self.h2.send_data(stream, b"id: 1\ndata: one\n\n")
        elif name == "silent":
            pass
        elif name == "close":
            self.flush()
            return "close"
        else:
            return False
        return True

    def on_end(self, stream, path):
        """What is done when all of the request is there."""
        body, name = self.bodies[stream], path.strip("/").split("?")[0]
        if name == "trailers":
            self.answer(stream, b"ok", trailers=[("x-sum", "abc"), ("content-length", "3"), ("x-podpin-session", "no")])
        elif name == "reset-late":
            self.head(stream)
            self.h2.send_data(stream, b"part")
            self.flush()
            self.h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
        elif name == "huge-trailers":
            self.answer(stream, b"ok", trailers=[(f"x-{index}", "v" * 1000) for index in range(100)])
        elif name == "many-fields":
            self.answer(stream, b"ok", [(f"x-{index}", "v") for index in range(300)])
        elif name == "two-lengths":
            self.answer(stream, b"ok", [("content-length", "2"), ("content-length", "3")])
        elif name == "wrong-length":
            self.answer(stream, b"ok", [("content-length", "5")])
        elif name == "cut":
            self.head(stream)
            self.h2.send_data(stream, b"part")
            self.flush()
            return "close"
        elif name == "no-content":
            self.head(stream, status="204", ends=True)
        else:
            self.answer(stream, b"%d %d" % (self.number, len(body)))
        return None

    def on(self, event):
        stream = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.RequestReceived):
            fields = dict(event.headers)
            path, self.bodies[stream] = fields[":path"], b""
            self.paths[stream] = path
            say(path=path, connection=self.number, fields=fields)
            if not self.settled:
                self.settle()
            done = self.on_head(stream, path)
            if done == "close":
                return done
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[stream] += event.data
            try:
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
            except h2.exceptions.StreamClosedError:
                pass
        elif isinstance(event, h2.events.TrailersReceived):
            say(path=self.paths[stream], trailers=[list(field) for field in event.headers])
        elif isinstance(event, h2.events.StreamReset):
            say(path=self.paths.get(stream), reset=int(event.error_code))
        elif isinstance(event, h2.events.StreamEnded):
            name = self.paths[stream].strip("/").split("?")[0]
            say(path=self.paths[stream], body=len(self.bodies[stream]))
            quiet = ("goaway", "refused", "always-refused", "reset", "early", "hold", "events", "silent", "close")
            if name not in quiet or (name in ("goaway", "refused") and seen[self.paths[stream]] > 1):
                return self.on_end(stream, self.paths[stream])
        return None

    def serve(self):
        try:
            while data := self.socket.recv(65536):
                for event in self.h2.receive_data(data):
                    if self.on(event) == "close":
                        return
                self.flush()
        except (OSError, h2.exceptions.ProtocolError) as error:
            say(error=repr(error))
        finally:
            # A close that is seen at once, whatever a fork or a frame still holds.
            try:
                self.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self.socket.close()
            say(closed=self.number)


def main():
    listener = socket.create_server(("127.0.0.1", 0))
    say(port=listener.getsockname()[1])
    number = 0
    while True:
        peer, _ = listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number += 1
        threading.Thread(target=Connection(peer, number).serve, daemon=True).start()


main()
