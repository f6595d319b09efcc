"""Sessions of the `mcp` SDK's client whose servers die, one after another.

mcp_survivor.py <URL> <authority's file> <how many sessions> <how many deaths>

Every other session has no cookies and speaks HTTP/2. Prints {"server", "id"} of each session once all are open. Then, for
each death, waits until a session was told that it is unknown, calls each, begins anew those that are over, and prints
one line for each: where it is now, what its calls and its own stream said, how the old one ended, and what was answered.
Last what the calls answer that stayed open.
"""

import asyncio
import json
import sys
from contextlib import AsyncExitStack

from mcp.shared.exceptions import McpError
from mcp_session import PATIENCE, Session, http_client


def say(what):
    print(json.dumps(what), flush=True)


class Survivor:
    """One client, with one session after another."""

    def __init__(self, url, stack, session):
        self.url, self.stack, self.session = url, stack, session
        self.met = 0

    async def begin(self):
        await self.session.open(self.url, self.stack)
        self.met = len(self.session.answers)

    async def count(self):
        """Its next number, in another session if this one is over."""
        error = None
        try:
            count = await self.session.call("count")
        except McpError as over:
            error = {"code": over.error.code, "message": over.error.message}
            await self.let_go()
        answers = sorted({f"{method} {status}" for method, status in self.session.answers[self.met :]})
        if error:
            self.session = Session(self.session.http, self.session.holds)
            await self.begin()
            count = await self.session.call("count")
        await self.session.call("announce", text=f"to {self.session.id}")
        heard = await self.session.hear() == f"to {self.session.id}"
        self.met = len(self.session.answers)
        return {"server": self.session.server, "count": count, "heard": heard, "error": error, "answers": answers}

    async def let_go(self):
        """The SDK asks once for its stream and twice for the rest of the call, and then is silent about both for ever."""
        await self.session.answered("GET", 404, 1 + 2 * self.session.holds)
        if self.session.holds:
            self.session.held.cancel()


async def main(url, authority, sessions, deaths):
    async with AsyncExitStack() as stack:
        survivors = []
        for number in range(int(sessions)):
            old = number % 2 == 0
            http = http_client(old, authority, "http1" if old else "http2")
            session = Session(await stack.enter_async_context(http), holds=old)
            survivors.append(Survivor(url, stack, session))
            await survivors[-1].begin()
        for survivor in survivors:
            say({"server": survivor.session.server, "id": survivor.session.id})
        for _ in range(int(deaths)):
            first = [asyncio.create_task(one.session.answered("GET", 404, 1)) for one in survivors]
            done, waiting = await asyncio.wait(first, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            assert done, "no session has lost its server"
            for survivor in survivors:
                say(await survivor.count())
        say([await survivor.session.release() for survivor in survivors])


asyncio.run(main(*sys.argv[1:]))
