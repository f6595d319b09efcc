"""A pod that serves gRPC by `grpcio`, with TLS if it is given a certificate and its key.

Usage: grpc_pod.py NAME [CERTIFICATE KEY]. Prints its port, then a line of JSON for each thing that happens to a call. Messages are bytes as
they are; `grpc.health.v1` is spoken in the few bytes that it has. SIGUSR1 turns what Health/Check says.
"""

import json
import signal
import sys
import threading
from concurrent import futures

import grpc

NAME = sys.argv[1]
# Field 1 of HealthCheckResponse: SERVING or NOT_SERVING.
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
health = [SERVING, NOT_SERVING]


def say(**fields):
    print(json.dumps(fields), flush=True)


def metadata(context):
    return dict(context.invocation_metadata())


def echo(request, context):
    """The message behind the pod's name, and its metadata both ways."""
    seen = metadata(context)
    if "bin-bin" in seen:
        context.send_initial_metadata([("first-bin", seen["bin-bin"])])
        context.set_trailing_metadata([("last-bin", seen["bin-bin"]), ("x-sum", "abc")])
    say(call="Echo", size=len(request), session=seen.get("x-podpin-session"))
    return request if len(request) > 1000 else NAME.encode() + b":" + request


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such room: 100 %\nü")


def slow(request, context):
    """Answers never; says when it was given up."""
    done = threading.Event()
    context.add_callback(done.set)
    say(call="Slow", event="begun", left=context.time_remaining())
    done.wait(30)
    say(call="Slow", event="ended")
    return b""


def collect(requests, context):
    count = total = 0
    for request in requests:
        count, total = count + 1, total + len(request)
    return f"{count} {total}".encode()


def count(request, context):
    """As many messages as asked for, of the size asked for."""
    number, size = (int(word) for word in request.split())
    for index in range(number):
        yield str(index).encode().ljust(size, b".")


def hold(request, context):
    """One message, and silence until the call is over."""
    done = threading.Event()
    context.add_callback(done.set)
    say(call="Hold", event="begun")
    yield NAME.encode()
    done.wait(60)
    say(call="Hold", event="ended")


def chat(requests, context):
    for request in requests:
        yield NAME.encode() + b":" + request


def amplify(requests, context):
    """For each small message a large one: who reads only one direction at a time gets stuck."""
    for request in requests:
        yield request * 100_000


def check(request, context):
    say(call="Check", about=request[2:].decode())
    return health[0]


UNARY = {"Echo": echo, "Fail": fail, "Slow": slow}
STREAMS = {"Count": count, "Hold": hold}


class Methods(grpc.GenericRpcHandler):
    def service(self, details):
        method = details.method.rsplit("/", 1)[1]
        if details.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(check)
        if method in UNARY:
            return grpc.unary_unary_rpc_method_handler(UNARY[method])
        if method in STREAMS:
            return grpc.unary_stream_rpc_method_handler(STREAMS[method])
        if method == "Collect":
            return grpc.stream_unary_rpc_method_handler(collect)
        if method in ("Chat", "Amplify"):
            return grpc.stream_stream_rpc_method_handler(chat if method == "Chat" else amplify)
        return None


def main():
    signal.signal(signal.SIGUSR1, lambda *_: health.reverse())
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=options)
    server.add_generic_rpc_handlers([Methods()])
    if len(sys.argv) > 2:
        certificate, key = (open(path, "rb").read() for path in sys.argv[2:4])
        credentials = grpc.ssl_server_credentials([(key, certificate)])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say(port=port)
    server.wait_for_termination()


main()
