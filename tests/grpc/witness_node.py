"""The example node with a witness outside: each run of a tool is a line in a file. `--also NAME` adds a tool."""

import os
import sys
import time

import node

WITNESS = os.environ["WITNESS"]


def wrote(line):
    with open(WITNESS, "a") as file:
        file.write(line + "\n")


def say(call):
    wrote(f"say {call.request.request_id} {call.request.attempt}")
    return node.say(call)


def ticks(call):
    wrote(f"ticks {call.request.request_id} {call.request.attempt}")
    try:
        for n in range(600):
            time.sleep(0.1)
            call.progress(f"tick {n}")
    except node.Cancelled:
        wrote("ticks stopped")
        raise


def fails(call):
    raise ValueError("out of paper")


def large(call):
    return "x" * (2 << 20)


tools = {"say": say, "ticks": ticks, "fails": fails, "large": large, "count": node.count}
if also := os.environ.get("ALSO"):
    tools[also] = say
sys.argv[0] = "node.py"
node.main(tools)
