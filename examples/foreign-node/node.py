"""A foreign node of sigil, in Python: grpcio and proto/sigil/v1/node.proto are all that it needs.

It comes to the device that hosts it, shows its token, says which tools it has, and runs the calls that it is sent. When it is cut off
it comes back, with pauses.
"""

import argparse
import json
import pathlib
import platform
import queue
import random
import sys
import threading
import time

import grpc
from sigil.v1 import node_pb2 as pb
from sigil.v1 import node_pb2_grpc


class Cancelled(Exception):
    pass


class Call:
    """One call: what it was asked, and the means to tell how far it is."""

    def __init__(self, node, request):
        self.node, self.request, self.cancelled = node, request, threading.Event()
        self.arguments = json.loads(request.arguments or "{}")

    def progress(self, note):
        running = pb.CallAnswer.Running(note=note)
        self.node.send(answer=pb.CallAnswer(request_id=self.request.request_id, attempt=self.request.attempt, running=running))
        if self.cancelled.is_set():
            raise Cancelled

    def run(self, tool):
        output, error = "", ""
        try:
            output = json.dumps(tool(self))
        except Cancelled:
            error = "cancelled"
        except Exception as failure:  # whatever a tool does, the call gets its end
            error = f"{type(failure).__name__}: {failure}"
        result = pb.ToolResult(
            request_id=self.request.request_id, attempt=self.request.attempt, output=output, error=error
        )
        self.node.send(tool_result=result)
        self.node.calls.pop(self.request.request_id, None)


def say(call):
    return {"said": call.arguments.get("text", "")}


def count(call):
    """Counts for some seconds, and tells how far it is."""
    to, seconds = int(call.arguments.get("to", 3)), float(call.arguments.get("seconds", 0))
    for n in range(1, to + 1):
        time.sleep(seconds / to)
        call.progress(f"counted to {n}")
    return {"counted": to}


TOOLS = {"say": say, "count": count}


class Node:
    def __init__(self, name, tools):
        self.name, self.tools, self.calls, self.out = name, tools, {}, queue.Queue()

    def send(self, **message):
        self.out.put(pb.NodeMessage(**message))

    def stay(self, channel, token):
        """One stream, to its end."""
        self.out, self.calls = queue.Queue(), {}
        out = self.out
        register = pb.NodeRegister(node_id=self.name, platform=platform.system().lower(), tools=list(self.tools), version="1.0")
        self.send(register=register)
        stub = node_pb2_grpc.NodeServiceStub(channel)
        stream = stub.Connect(iter(out.get, None), metadata=[("authorization", f"Bearer {token}")])
        try:
            for message in stream:
                self.take(message)
        finally:
            for call in list(self.calls.values()):
                call.cancelled.set()
            out.put(None)

    def take(self, message):
        what = message.WhichOneof("msg")
        if what == "register_ack":
            if not message.register_ack.accepted:
                raise SystemExit(f"refused: {message.register_ack.error} ({message.register_ack.hint})")
            print(f"registered as {self.name}", flush=True)
        elif what == "tool_execute":
            request = message.tool_execute
            call = self.calls[request.request_id] = Call(self, request)
            threading.Thread(target=call.run, args=(self.tools[request.tool_name],), daemon=True).start()
        elif what == "cancel" and message.cancel.request_id in self.calls:
            self.calls[message.cancel.request_id].cancelled.set()


def main(tools=TOOLS):
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--at", required=True, metavar="HOST:PORT", help="where the device that hosts it listens")
    arguments.add_argument("--name", required=True, help="the name that `sigil node add` was given")
    arguments.add_argument("--token-file", required=True, type=pathlib.Path)
    arguments.add_argument("--certificate", required=True, type=pathlib.Path, help="that of the device, as PEM")
    given = arguments.parse_args()
    token, node, pause = given.token_file.read_text().strip(), Node(given.name, tools), 0.5
    credentials = grpc.ssl_channel_credentials(root_certificates=given.certificate.read_bytes())
    # The device is known by its certificate, whatever address it has.
    options = [("grpc.ssl_target_name_override", "sigil"), ("grpc.max_receive_message_length", 4 << 20)]
    while True:
        began = time.monotonic()
        try:
            with grpc.secure_channel(given.at, credentials, options) as channel:
                node.stay(channel, token)
        except grpc.RpcError as error:
            print(f"cut off: {error.code().name}: {error.details()}", flush=True)
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                sys.exit(4)
        pause = 0.5 if time.monotonic() - began > 10 else min(pause * 2, 30)
        time.sleep(pause * random.uniform(0.5, 1))


if __name__ == "__main__":
    main()
