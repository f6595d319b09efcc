"""A server of the `mcp` SDK with its sessions in memory: mcp_server.py <name>.

Listens on a free port and prints it as {"port": ...}; then prints one line for each request that it has begun to answer.
"""

import asyncio
import itertools
import json
import socket
import sys
import weakref
from contextvars import ContextVar

import uvicorn
from mcp.server.fastmcp import Context, FastMCP
from mcp.server.streamable_http import EventMessage, EventStore

NAME = sys.argv[1]


# The SDK names every session's GET stream alike and does not tell the store whose events it is given. A session's tasks
# inherit this from its first request, and later requests find it by the session's id.
SESSION = ContextVar("SESSION")
sessions = {}


class Memory(EventStore):
    """Every event that was sent, in order, with the session and the stream that it was sent to."""

    def __init__(self):
        self.events = []

    async def store_event(self, stream_id, message):
        self.events.append((SESSION.get(), stream_id, message))
        return f"{NAME}-{len(self.events)}"

    async def replay_events_after(self, last_event_id, send_callback):
        name, _, number = last_event_id.rpartition("-")
        if name != NAME:
            return None
        session, stream, _ = self.events[int(number) - 1]
        for index, (owner, stream_id, message) in enumerate(self.events[int(number) :], int(number) + 1):
            if owner is session and stream_id == stream and message is not None:
                await send_callback(EventMessage(message, f"{NAME}-{index}"))
        return stream


# Behind a proxy, the name in `Host` is the proxy's: `host` other than loopback leaves the check of it out.
server = FastMCP(NAME, event_store=Memory(), retry_interval=50, host="0.0.0.0", log_level="WARNING")
counters = weakref.WeakKeyDictionary()
releases = weakref.WeakKeyDictionary()


@server.tool()
async def count(ctx: Context) -> str:
    """Counts the calls of this session."""
    return f"{NAME} {next(counters.setdefault(ctx.session, itertools.count(1)))}"


@server.tool()
async def announce(text: str, ctx: Context) -> str:
    """Tells the session something on its GET stream."""
    await ctx.session.send_log_message("info", text)
    return NAME


@server.tool()
async def narrate(text: str, ctx: Context) -> str:
    """Tells the caller something on the stream of this call."""
    await ctx.info(text)
    return NAME


@server.tool()
async def hold(text: str, ctx: Context) -> str:
    """Tells the caller something on the stream of this call, and leaves it open until `release` is called."""
    released = releases[ctx.session] = asyncio.Event()
    await ctx.info(text)
    await released.wait()
    return f"{NAME} held"


@server.tool()
async def release(ctx: Context) -> str:
    """Lets the call of `hold` go on."""
    releases[ctx.session].set()
    return NAME


@server.tool()
async def hang_up(ctx: Context) -> str:
    """Ends the stream of this call before its result, which the client has to come back for."""
    await ctx.close_sse_stream()
    return f"{NAME} resumed"


@server.tool()
async def go_away(text: str, ctx: Context) -> str:
    """Ends the session's GET stream, and then says something there that the client has to come back for."""
    await ctx.close_standalone_sse_stream()
    await ctx.session.send_log_message("info", text)
    return NAME


def recorded(app):
    """The same application, printing what it is asked."""

    async def run(scope, receive, send):
        if scope["type"] != "http":
            return await app(scope, receive, send)
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        session = sessions.get(dict(headers).get("mcp-session-id"), object())
        SESSION.set(session)

        async def answer(message):
            if message["type"] == "http.response.start":
                issued = [v.decode() for n, v in message.get("headers", []) if n.lower() == b"mcp-session-id"]
                sessions.update((value, session) for value in issued)
                line = {"method": scope["method"], "status": message["status"], "issued": issued}
                line["session"] = [value for name, value in headers if name == "mcp-session-id"]
                line["last_event_id"] = dict(headers).get("last-event-id")
                line["cookie"] = dict(headers).get("cookie")
                print(json.dumps(line), flush=True)
            await send(message)

        await app(scope, receive, answer)

    return run


def main():
    # Named, or asyncio does not know it for TCP and leaves Nagle's algorithm on.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    config = uvicorn.Config(recorded(server.streamable_http_app()), log_level="warning", lifespan="on")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


main()
