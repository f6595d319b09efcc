"""Sessions of the `mcp` SDK's client, open at the same time, whose connections are cut once.

mcp_client.py <URL> <cookies|no-cookies> <how many> [<authority's file> <http1|http2>]

Prints its steps as it takes them, and last one line for each session: its id, the cookies it was left with, and what
it was told, in order.
"""

import asyncio
import json
import sys
from contextlib import AsyncExitStack

from mcp_session import Session, http_client


async def talk(session):
    # Its own stream was cut, and that of the call that stays open; they come back.
    await session.answered("GET", 200, 2 + session.holds)
    report = {"server": session.server, "id": session.id}
    report["counts"] = [await session.call("count") for _ in range(3)]
    report["tools"] = len((await session.session.list_tools()).tools)
    heard = report["heard"] = []
    for tool in ["announce", "narrate", "go_away"]:
        await session.call(tool, text=f"{tool} {session.id}")
        heard.append(await session.hear())
    report["held"] = await session.release()
    report["resumed"] = await session.call("hang_up")
    report["counts"].append(await session.call("count"))
    report["cookies"] = sorted(cookie.name for cookie in session.http.cookies.jar)
    report["protocols"] = sorted(session.protocols)
    return report


async def main(url, cookies, sessions, *tls):
    print("started", flush=True)
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(int(sessions)):
            http = await stack.enter_async_context(http_client(cookies == "cookies", *tls))
            opened.append(Session(http, holds="http2" not in tls))
            await opened[-1].open(url, stack)
            print("opened", flush=True)
        reports = await asyncio.gather(*(talk(session) for session in opened))
        print("talked", flush=True)
    for report in reports:
        print(json.dumps(report), flush=True)


asyncio.run(main(*sys.argv[1:]))
