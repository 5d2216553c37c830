"""The clients of MCP of PyPI, `mcp` (both eras) and `fastmcp`, over HTTP and over pipes.

clients.py SIGIL HOME URL TOKEN FILE [queued]

FILE is where the tools write what they did. A line of JSON is printed for each client and way. With `queued` the device of the tools is
away: then the line is how the call stands.
"""

import asyncio
import json
import pathlib
import sys
import time

SIGIL, HOME, URL, TOKEN, FILE, *REST = sys.argv[1:]
ARGS = ["mcp", "--as", "python", "--home", HOME]
HEADERS = {"authorization": f"Bearer {TOKEN}"}


def taken():
    path = pathlib.Path(FILE)
    return path.read_text().count("taken back") if path.exists() else 0


class Mcp:
    """The client of the package `mcp`."""

    def __init__(self, way, mode):
        import httpx2
        from mcp import Client, StdioServerParameters
        from mcp.client.streamable_http import streamable_http_client

        if way == "http":
            server = streamable_http_client(URL, http_client=httpx2.AsyncClient(headers=HEADERS, timeout=60))
        else:
            server = StdioServerParameters(command=SIGIL, args=ARGS)
        self.client = Client(server, mode=mode)

    async def names(self):
        return [tool.name for tool in (await self.client.list_tools()).tools]

    async def call(self, name, arguments=None, heard=None):
        async def tell(progress, _total, _message):
            heard.append(progress)

        more = {"progress_callback": tell} if heard is not None else {}
        result = await self.client.call_tool(name, arguments or {}, **more)
        return result.content, result.structured_content, result.is_error


class Fast:
    """The client of the package `fastmcp`."""

    def __init__(self, way):
        from fastmcp import Client
        from fastmcp.client.transports import StdioTransport, StreamableHttpTransport

        http = way == "http"
        self.client = Client(StreamableHttpTransport(URL, headers=HEADERS) if http else StdioTransport(SIGIL, ARGS))

    async def names(self):
        return [tool.name for tool in await self.client.list_tools()]

    async def call(self, name, arguments=None, heard=None):
        async def tell(progress, _total, _message):
            heard.append(progress)

        more = {"progress_handler": tell} if heard is not None else {}
        result = await self.client.call_tool(name, arguments or {}, raise_on_error=False, **more)
        return result.content, result.structured_content, result.is_error


async def everything(client):
    names = await client.names()
    assert names == sorted(names), names
    assert {"shed__kit_test_simple_text", "sigil_call_status", "desk__device_info"} <= set(names), names
    content, _, failed = await client.call("shed__kit_test_simple_text")
    assert content[0].text == "This is a simple text response for testing." and not failed, content
    content, _, _ = await client.call("shed__kit_test_image_content")
    assert [it.type for it in content] == ["image"], content
    _, structured, _ = await client.call("shed__kit_structured", {"text": "ä b"})
    assert structured == {"text": "ä b", "length": 3}, structured
    content, _, failed = await client.call("shed__kit_test_error_handling")
    assert failed and "intentionally" in str(content), content
    heard = []
    content, _, _ = await client.call("shed__kit_slow_compute", {"seconds": 1, "label": "x"}, heard)
    assert content[0].text == "done: x" and len(heard) >= 2 and heard == sorted(set(heard)), (content, heard)
    before = taken()
    call = asyncio.create_task(client.call("shed__kit_slow_compute", {"seconds": 30}))
    await asyncio.sleep(0.7)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    end = time.monotonic() + 5
    while taken() == before:
        assert time.monotonic() < end, "the tool was not stopped"
        await asyncio.sleep(0.05)


async def queued(client, label):
    await client.names()
    began = time.monotonic()
    _, structured, _ = await client.call("shed__note", {"text": label})
    return {**structured, "took_ms": round((time.monotonic() - began) * 1000)}


async def main():
    kinds = {
        "mcp, 2026-07-28": lambda way: Mcp(way, "2026-07-28"),
        "mcp, 2025-11-25": lambda way: Mcp(way, "legacy"),
        "fastmcp": Fast,
    }
    for kind, make in kinds.items():
        for way in ("http", "stdio"):
            client = make(way)
            began = time.monotonic()
            async with client.client:
                said = await queued(client, f"{kind} {way}") if REST else await everything(client)
            print(json.dumps({"name": f"PyPI {kind}, {way}", "ms": round((time.monotonic() - began) * 1000), **(said or {})}), flush=True)


asyncio.run(main())
