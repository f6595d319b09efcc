"""A WebSocket server of a published library, as a pod.

Usage: websocket_server.py websockets|aiohttp NAME. Writes its port as a line of JSON, then a line for each connection that
has closed, with the status of the Close that it got. Answers each message with its name in front of it.
"""

import asyncio
import json
import sys

library, name = sys.argv[1:]


def say(**facts):
    print(json.dumps(facts), flush=True)


async def with_websockets():
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosed

    async def answer(socket):
        try:
            while True:
                await socket.send(f"{name}: {await socket.recv()}")
        except ConnectionClosed:
            say(closed=socket.close_code)

    async with serve(answer, "127.0.0.1", 0) as server:
        say(port=server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().create_future()


async def with_aiohttp():
    from aiohttp import WSMsgType, web

    async def answer(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                await socket.send_str(f"{name}: {message.data}")
        say(closed=socket.close_code)
        return socket

    app = web.Application()
    app.router.add_get("/ws", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    say(port=site._server.sockets[0].getsockname()[1])
    await asyncio.get_running_loop().create_future()


asyncio.run({"websockets": with_websockets, "aiohttp": with_aiohttp}[library]())
