"""Reads one event stream with a published client, and writes each event that the client dispatches as a line of JSON.

event_clients.py <client> <url>; the last line is "end".
"""

import asyncio
import json
import sys

import httpx

HEADERS = {"Accept": "text/event-stream", "Last-Event-ID": "0"}


def say(id, data):
    print(json.dumps({"id": id, "data": data}), flush=True)


def opened(url):
    return httpx.stream("GET", url, headers=HEADERS, timeout=None)


def read_httpx_sse(url):
    from httpx_sse import EventSource

    with opened(url) as response:
        for event in EventSource(response).iter_sse():
            say(event.id, event.data)


def read_sdk(url, decoder):
    with opened(url) as response:
        for event in decoder.iter_bytes(response.iter_bytes()):
            say(event.id, event.data)


def read_openai(url):
    from openai._streaming import SSEDecoder

    read_sdk(url, SSEDecoder())


def read_anthropic(url):
    from anthropic._streaming import SSEDecoder

    read_sdk(url, SSEDecoder())


def read_sseclient(url):
    from sseclient import SSEClient

    with opened(url) as response:
        for event in SSEClient(response.iter_bytes()).events():
            say(event.id, event.data)


def read_aiohttp_sse_client(url):
    from aiohttp_sse_client.client import EventSource

    async def read():
        async with EventSource(url, headers=HEADERS, max_connect_retry=0) as events:
            try:
                async for event in events:
                    say(event.last_event_id, event.data)
            except ConnectionError:
                pass

    asyncio.run(read())


CLIENTS = {
    "httpx-sse": read_httpx_sse,
    "openai": read_openai,
    "anthropic": read_anthropic,
    "sseclient-py": read_sseclient,
    "aiohttp-sse-client": read_aiohttp_sse_client,
}

CLIENTS[sys.argv[1]](sys.argv[2])
print("end", flush=True)
