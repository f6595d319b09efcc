"""gRPC by its own library, through a proxy that turns it into HTTP/1.1 with trailers.

Usage: grpc_client.py PORT. Prints one line of JSON for each call.
"""

import json
import sys

import grpc


def say(call, said):
    print(json.dumps({"call": call, "said": said}), flush=True)


def main(port):
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)])
    unary = channel.unary_unary("/chat.Chat/Say")
    reply, call = unary.with_call(b"hello", timeout=20, metadata=[("x-room", "a"), ("bin-bin", b"\x00\xff")])
    say("unary", [reply.decode(), call.code().name, dict(call.trailing_metadata()).get("x-sum")])
    try:
        channel.unary_unary("/chat.Chat/Fail")(b"hello", timeout=20)
    except grpc.RpcError as error:
        say("failure", [error.code().name, error.details()])
    replies = channel.unary_stream("/chat.Chat/Listen")(b"hello", timeout=20)
    say("first of stream", next(replies).decode())
    say("rest of stream", [reply.decode() for reply in replies])
    replies = channel.unary_stream("/chat.Chat/Endless")(b"hello", timeout=20)
    say("first of endless", next(replies).decode())
    replies.cancel()
    try:
        list(replies)
    except grpc.RpcError as error:
        say("cancelled", error.code().name)


main(int(sys.argv[1]))
