"""Calls of gRPC by `grpcio` through a proxy, whose pods are `grpc_pod.py`.

Usage: grpc_calls.py PORT SCENE [CA]. Prints lines of JSON. With CA, a file, it speaks TLS to `localhost`.
"""

import json
import sys
import threading
import time

import grpc

LARGE = 10_000_000
OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A call that fails is to be seen, not repeated.
    ("grpc.enable_retries", 0),
]


def say(*said):
    print(json.dumps(said), flush=True)


def channel(port, ca):
    if ca is None:
        return grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
    with open(ca, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    return grpc.secure_channel(f"localhost:{port}", credentials, options=OPTIONS)


def failure(call):
    """The status and the words of a call that fails."""
    try:
        call()
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["OK", ""]


class Scenes:
    def __init__(self, channel):
        self.channel = channel

    def unary(self, name):
        return self.channel.unary_unary(f"/chat.Chat/{name}")

    def stream(self, name):
        return self.channel.unary_stream(f"/chat.Chat/{name}")

    def all(self):
        self.messages()
        self.streams()
        self.large()
        self.failures()
        self.cancel()

    def messages(self):
        sent = [("bin-bin", b"\x00\xff\x80"), ("x-room", "a")]
        reply, call = self.unary("Echo").with_call(b"hello", timeout=20, metadata=sent)
        first, last = dict(call.initial_metadata()), dict(call.trailing_metadata())
        say("unary", reply.decode(), call.code().name, first["first-bin"].hex(), last["last-bin"].hex(), last["x-sum"])

    def streams(self):
        collect = self.channel.stream_unary("/chat.Chat/Collect")
        say("collect", collect(iter([b"a" * 1000] * 500), timeout=20).decode())
        counted = list(self.stream("Count")(b"300 5000", timeout=20))
        say("count", len(counted), sum(map(len, counted)), counted[-1].split(b".")[0].decode())
        # Each answer is awaited before the next message goes.
        answered = threading.Semaphore()

        def requests():
            for index in range(20):
                answered.acquire()
                yield str(index).encode()

        chatted = []
        for reply in self.channel.stream_stream("/chat.Chat/Chat")(requests(), timeout=20):
            chatted.append(reply.decode().split(":")[1])
            answered.release()
        say("chat", chatted == [str(index) for index in range(20)])

    def large(self):
        message = bytes(range(256)) * (LARGE // 256)
        say("large", self.unary("Echo")(message, timeout=30) == message)

    def both(self):
        """Both directions full at once: 30 MB back for few bytes, behind windows of tens of kilobytes."""
        requests = (bytes([index % 256]) * 1 for index in range(300))
        received = 0
        for reply in self.channel.stream_stream("/chat.Chat/Amplify")(requests, timeout=40):
            received += len(reply)
        say("amplify", received)
        message = b"x" * 1_000_000
        total = 0
        for reply in self.channel.stream_stream("/chat.Chat/Chat")(iter([message] * 20), timeout=40):
            total += len(reply.split(b":", 1)[1])
        say("both", total)

    def failures(self):
        say("fail", *failure(lambda: self.unary("Fail")(b"", timeout=20)))
        say("missing", *failure(lambda: self.unary("Missing")(b"", timeout=20)))
        began = time.monotonic()
        code, _ = failure(lambda: self.unary("Slow")(b"", timeout=0.5))
        say("deadline", code, time.monotonic() - began < 10)

    def cancel(self):
        replies = self.stream("Hold")(b"")
        first = next(replies).decode()
        replies.cancel()
        say("cancel", first, *failure(lambda: list(replies))[:1])

    def hold(self):
        """Holds a call until it is ended."""
        replies = self.stream("Hold")(b"", timeout=60)
        say("held", next(replies).decode())
        say("ended", *failure(lambda: list(replies)))

    def slow(self):
        say("slow", *failure(lambda: self.unary("Slow")(b"", timeout=60)))

    def echo(self):
        say("echo", *failure(lambda: self.unary("Echo")(b"hello", timeout=20)))

    def where(self):
        say("where", self.unary("Echo")(b"hello", timeout=20).decode())

    def pinned(self):
        """Which pod answers: by session, then by cookie."""
        for name, value in [("x-room", "a"), ("x-room", "b"), ("x-room", "c")]:
            replies = {self.unary("Echo")(b"", timeout=20, metadata=[(name, value)]).decode() for _ in range(10)}
            say(value, sorted(replies))

    def cookie(self):
        reply, call = self.unary("Echo").with_call(b"", timeout=20)
        cookie = dict(call.initial_metadata())["set-cookie"].split(";")[0]
        replies = {self.unary("Echo")(b"", timeout=20, metadata=[("cookie", cookie)]) for _ in range(20)}
        say("cookie", replies == {reply})


def main(port, scene, ca=None):
    getattr(Scenes(channel(port, ca)), scene)()


main(*sys.argv[1:])
