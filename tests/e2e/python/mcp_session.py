"""A session of the `mcp` SDK's client that keeps account of what it meets."""

import asyncio
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

import trust

PATIENCE = 30


def http_client(cookies, authority=None, protocol="http1"):
    """The SDK's own, or one like it that trusts an authority of ours."""
    if authority is None:
        client = create_mcp_http_client()
    else:
        timeout = httpx.Timeout(30, read=300)
        client = httpx.AsyncClient(verify=trust.only(authority), http2=protocol == "http2", timeout=timeout)
    if not cookies:
        client.cookies.jar = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return client


class Session:
    """One session. With `holds`, a call of it stays open meanwhile.

    By HTTP/2 it cannot: a response that httpcore (1.0.9) has read while it waited for another one stays unread as long as
    a third one on the connection is silent. The session's own stream and one call at a time are two.
    """

    def __init__(self, http, holds=True):
        self.http = http
        self.holds = holds
        self.http.event_hooks = {"response": [self._answered]}
        self.told = asyncio.Queue()
        # The method and status of each response, and the protocols that they came by.
        self.answers = []
        self.protocols = set()
        self._more = asyncio.Condition()

    async def _answered(self, response):
        self.protocols.add(response.http_version)
        async with self._more:
            self.answers.append((response.request.method, response.status_code))
            self._more.notify_all()

    async def answered(self, method, status, count):
        """Waits for so many responses of this kind."""

        def enough():
            return self.answers.count((method, status)) >= count

        async with self._more:
            await asyncio.wait_for(self._more.wait_for(enough), PATIENCE)

    async def _log(self, message):
        self.told.put_nowait(message.data)

    async def hear(self):
        return await asyncio.wait_for(self.told.get(), PATIENCE)

    async def open(self, url, stack):
        """Begins it; something was heard on its own stream and on that of the call that stays open, so both can resume."""
        read, write, session_id = await stack.enter_async_context(
            streamable_http_client(url, http_client=self.http)
        )
        self.session = await stack.enter_async_context(ClientSession(read, write, logging_callback=self._log))
        self.server = (await self.session.initialize()).serverInfo.name
        self.id = session_id()
        await self.answered("GET", 200, 1)
        await self.call("announce", text="listening")
        assert await self.hear() == "listening"
        if not self.holds:
            return
        self.held = asyncio.create_task(self.call("hold", text="holding"))
        assert await self.hear() == "holding"

    async def call(self, tool, **arguments):
        result = await asyncio.wait_for(self.session.call_tool(tool, arguments), PATIENCE)
        assert not result.isError, result
        return result.content[0].text

    async def release(self):
        """What the call that stayed open answers."""
        if not self.holds:
            return None
        await self.call("release")
        return await asyncio.wait_for(self.held, PATIENCE)
