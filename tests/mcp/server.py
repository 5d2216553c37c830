#!/usr/bin/env python3
"""An MCP server of the tests: over standard streams, in one era or both, with the ways in which real ones misbehave.

server.py DIR [--era old|new|both]

DIR/tools.json is its list of tools, and may change at any time; DIR/ran gets a line for each run that begins, DIR/pids one for each
process.
"""
import base64
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

DIR = pathlib.Path(sys.argv[1])
ERA = sys.argv[sys.argv.index("--era") + 1] if "--era" in sys.argv else "both"
MODERN = "2026-07-28"
LOCK = threading.Lock()
CANCELLED = set()


def note(name, line):
    with open(DIR / name, "a") as file:
        file.write(line + "\n")


def send(message):
    with LOCK:
        sys.stdout.buffer.write((message if isinstance(message, bytes) else json.dumps(message).encode()) + b"\n")
        sys.stdout.buffer.flush()


def tools():
    return json.loads((DIR / "tools.json").read_text())


def text(said, **more):
    return {"content": [{"type": "text", "text": said}], **more}


def run(number, params):
    name, given = params["name"], params.get("arguments") or {}
    meta = params.get("_meta") or {}
    note("ran", name)
    if name == "slow":
        for step in range(40):
            if number in CANCELLED and not given.get("stubborn"):
                note("ran", "slow stopped")
                return
            if "progressToken" in meta:
                progress = {"progressToken": meta["progressToken"], "progress": step + 1, "total": 40, "message": "working"}
                send({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})
            time.sleep(0.25)
        result = text("slept")
    elif name == "crash":
        print("fatal: out of paper, key=" + os.environ.get("KEY", ""), file=sys.stderr, flush=True)
        os._exit(9)
    elif name == "mixed":
        result = {"content": [
            {"type": "text", "text": "a cat"},
            {"type": "image", "mimeType": "image/png", "data": base64.b64encode(b"\x89PNG cat").decode()},
            {"type": "resource", "resource": {"uri": "file:///notes/cat.md", "mimeType": "text/markdown", "text": "# cat"}},
            {"type": "resource_link", "uri": "file:///etc/passwd", "name": "../../passwd"},
        ]}
    elif name == "structured":
        result = text(json.dumps({"n": 1}), structuredContent={"n": 1})
    elif name == "large":
        result = text("x" * 100_000)
    elif name == "fail":
        result = text("it went wrong", isError=True)
    elif name == "refuse":
        send({"jsonrpc": "2.0", "id": number, "error": {"code": -32603, "message": "not today"}})
        return
    elif name == "garbage":
        send(b"this is not JSON")
        send({"jsonrpc": "2.0", "id": 99999, "result": {}})
        result = text("after garbage")
    else:
        result = text("hello " + str(given.get("name", "")))
    if meta.get("io.modelcontextprotocol/protocolVersion"):
        result["resultType"] = "complete"
    send({"jsonrpc": "2.0", "id": number, "result": result})


def watch():
    last = tools()
    while True:
        time.sleep(0.1)
        try:
            now = tools()
        except ValueError:
            continue  # it is being written
        if now != last:
            last = now
            send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})


def answer(number, method, params):
    if method == "initialize" and ERA != "new":
        info = {"name": "tests", "version": "1"}
        return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {"listChanged": True}}, "serverInfo": info}
    if method == "server/discover" and ERA != "old":
        meta = {"io.modelcontextprotocol/serverInfo": {"name": "tests", "version": "2"}}
        return {"supportedVersions": [MODERN], "capabilities": {}, "ttlMs": 0, "cacheScope": "private",
                "resultType": "complete", "_meta": meta}
    if method == "tools/list":
        # One a page, so that pages are asked for.
        all_tools, at = tools(), int(params.get("cursor") or 0)
        page = {"tools": all_tools[at:at + 1], "ttlMs": 0, "cacheScope": "private", "resultType": "complete"}
        if at + 1 < len(all_tools):
            page["nextCursor"] = str(at + 1)
        return page
    return None


note("pids", str(os.getpid()))
# A child that would outlive it, as servers behind launchers do.
note("pids", str(subprocess.Popen(["sleep", "1000"]).pid))
threading.Thread(target=watch, daemon=True).start()
for line in sys.stdin:
    message = json.loads(line)
    number, method, params = message.get("id"), message.get("method"), message.get("params") or {}
    if method == "tools/call":
        threading.Thread(target=run, args=(number, params), daemon=True).start()
    elif method == "subscriptions/listen":
        pass
    elif method == "notifications/cancelled":
        CANCELLED.add(params.get("requestId"))
    elif number is not None:
        result = answer(number, method, params)
        if result is None:
            send({"jsonrpc": "2.0", "id": number, "error": {"code": -32601, "message": "Method not found"}})
        else:
            send({"jsonrpc": "2.0", "id": number, "result": result})
