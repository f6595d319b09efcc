"""Sessions of the `mcp` SDK's client, open at the same time: mcp_client.py <URL> <cookies|no-cookies> <how many>.

Prints its steps as it takes them, and last one line for each session: its id, the cookies it was left with, and what
it was told, in order.
"""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from http.cookiejar import CookieJar, DefaultCookiePolicy

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

PATIENCE = 10


class Talk:
    """One session."""

    def __init__(self, cookies):
        self.http = create_mcp_http_client()
        if not cookies:
            self.http.cookies.jar = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self.http.event_hooks = {"response": [self.answered]}
        self.listening = asyncio.Event()
        self.told = asyncio.Queue()
        self.report = {}

    async def answered(self, response):
        if response.request.method == "GET" and response.status_code == 200:
            self.listening.set()

    async def log(self, message):
        self.told.put_nowait(message.data)

    async def open(self, url, stack):
        await stack.enter_async_context(self.http)
        read, write, session_id = await stack.enter_async_context(
            streamable_http_client(url, http_client=self.http)
        )
        self.session = await stack.enter_async_context(ClientSession(read, write, logging_callback=self.log))
        self.report["server"] = (await self.session.initialize()).serverInfo.name
        self.report["id"] = session_id()
        await asyncio.wait_for(self.listening.wait(), PATIENCE)

    async def call(self, tool, **arguments):
        result = await asyncio.wait_for(self.session.call_tool(tool, arguments), PATIENCE)
        assert not result.isError, result
        return result.content[0].text

    async def run(self):
        self.report["counts"] = [await self.call("count") for _ in range(3)]
        self.report["tools"] = len((await self.session.list_tools()).tools)
        heard = self.report["heard"] = []
        for tool in ["announce", "narrate", "go_away"]:
            await self.call(tool, text=f"{tool} {self.report['id']}")
            heard.append(await asyncio.wait_for(self.told.get(), PATIENCE))
        self.report["resumed"] = await self.call("hang_up")
        self.report["counts"].append(await self.call("count"))
        self.report["cookies"] = sorted(cookie.name for cookie in self.http.cookies.jar)


async def main(url, cookies, sessions):
    print("started", flush=True)
    talks = [Talk(cookies == "cookies") for _ in range(int(sessions))]
    async with AsyncExitStack() as stack:
        for talk in talks:
            await talk.open(url, stack)
            print("opened", flush=True)
        await asyncio.gather(*(talk.run() for talk in talks))
        print("talked", flush=True)
    for talk in talks:
        print(json.dumps(talk.report), flush=True)


asyncio.run(main(*sys.argv[1:]))
