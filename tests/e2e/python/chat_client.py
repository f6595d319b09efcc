"""Streams chat completions with the `openai` SDK.

chat_client.py <base URL> <how many questions> <cookie|header> <sync|async> [<authority's file> <http1|http2>]

Asks with one client. Prints `begin` and the protocol, one line for each chunk as it arrives, and `end`, or
the error that the SDK raises instead. With TLS each question has a connection of its own, as after a while of silence.
"""

import asyncio
import sys

import httpx2
import openai

import trust

URL, QUESTIONS, AFFINITY, KIND, *TLS = sys.argv[1:]
CLIENT = {
    "base_url": URL,
    "api_key": "none",
    "default_headers": {"X-Chat": "one"} if AFFINITY == "header" else {},
    "max_retries": 0,
    "timeout": 30,
}
QUESTION = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}], "stream": True}


def over_tls(client):
    """What makes the SDK speak TLS in a way of our own; nothing where it speaks none."""
    if not TLS:
        return {}
    authority, protocol = TLS
    limits = httpx2.Limits(max_keepalive_connections=0)
    verify = trust.only(authority)
    return {"http_client": client(verify=verify, http2=protocol == "http2", limits=limits)}


def say(what):
    print(what, flush=True)


def begin(stream):
    say(f"begin {stream.response.http_version}")


def told(chunk):
    say(f"chunk {chunk.choices[0].delta.content}")


def failed(error):
    say(f"error {type(error).__name__}")


def ask():
    client = openai.OpenAI(**CLIENT, **over_tls(openai.DefaultHttpxClient))
    for _ in range(int(QUESTIONS)):
        try:
            stream = client.chat.completions.create(**QUESTION)
            begin(stream)
            for chunk in stream:
                told(chunk)
            say("end")
        except openai.APIError as error:
            failed(error)


async def ask_async():
    client = openai.AsyncOpenAI(**CLIENT, **over_tls(openai.DefaultAsyncHttpxClient))
    for _ in range(int(QUESTIONS)):
        try:
            stream = await client.chat.completions.create(**QUESTION)
            begin(stream)
            async for chunk in stream:
                told(chunk)
            say("end")
        except openai.APIError as error:
            failed(error)


ask() if KIND == "sync" else asyncio.run(ask_async())
