"""A WebSocket client of a published library, which comes back once with its cookie.

Usage: websocket_client.py websockets|aiohttp HOST:PORT. Twice: connects, sends a message, and writes a line of JSON with the
answer; then one with status and reason of the Close. The second time it closes by itself.
"""

import asyncio
import json
import sys

library, address = sys.argv[1:]
URL = f"ws://{address}/ws"


def say(**facts):
    print(json.dumps(facts), flush=True)


async def with_websockets():
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    headers = {}
    for visit in (1, 2):
        async with connect(URL, additional_headers=headers) as socket:
            cookie = socket.response.headers.get("Set-Cookie")
            if cookie:
                headers["Cookie"] = cookie.split(";")[0]
            await socket.send("hello")
            say(answer=await socket.recv())
            if visit == 1:
                try:
                    await socket.recv()
                except ConnectionClosed as closed:
                    say(code=closed.rcvd.code, reason=closed.rcvd.reason)


async def with_aiohttp():
    from aiohttp import ClientSession, CookieJar

    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
        for visit in (1, 2):
            async with session.ws_connect(URL) as socket:
                await socket.send_str("hello")
                say(answer=(await socket.receive()).data)
                if visit == 1:
                    message = await socket.receive()
                    say(code=message.data, reason=message.extra)


asyncio.run({"websockets": with_websockets, "aiohttp": with_aiohttp}[library]())
