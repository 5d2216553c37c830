"""Nodes that do what no node should, one after the other: each prints what it was told."""

import argparse
import itertools
import pathlib
import socket
import sys
import time

import grpc
from sigil.v1 import node_pb2 as pb
from sigil.v1 import node_pb2_grpc

arguments = argparse.ArgumentParser()
for name in ("at", "token", "certificate", "how"):
    arguments.add_argument(f"--{name}")
given = arguments.parse_args()


def register(name="cam", tools=("say",), **more):
    return pb.NodeMessage(register=pb.NodeRegister(node_id=name, tools=tools, **more))


def forever(message):
    while True:
        yield message


def later(*messages):
    yield from messages
    time.sleep(30)


def floods():
    yield register()
    running = pb.CallAnswer(request_id="x" * 100_000, running=pb.CallAnswer.Running(note="y" * 100_000))
    yield from forever(pb.NodeMessage(answer=running))


def statuses():
    yield register()
    for n in itertools.count():
        yield pb.NodeMessage(status=pb.NodeStatus(node_id="cam", online=True, available_tools=[f"t{n % 7}"]))


messages = {
    "good": lambda: later(register()),
    "long-id": lambda: later(register(name="x" * 4096)),
    "other-name": lambda: later(register(name="dog")),
    "many-tools": lambda: later(register(tools=[f"tool-{n}" for n in range(10_000)])),
    "bad-tool": lambda: later(register(tools=["a b"])),
    "twice-tool": lambda: later(register(tools=["a", "A"])),
    "long-version": lambda: later(register(version="x" * 1000)),
    "silent": lambda: later(),
    "not-first": lambda: later(pb.NodeMessage(status=pb.NodeStatus(online=True))),
    "twice": lambda: later(register(), register()),
    "huge": lambda: later(register(tools=["x" * (2 << 20)])),
    "floods": floods,
    "statuses": statuses,
}

if given.how == "hold":
    # Connections of one address that say nothing, new ones all the time.
    host, port = given.at.rsplit(":", 1)
    for n in range(120):
        held = [socket.create_connection((host, int(port)), source_address=("127.0.0.2", 0)) for _ in range(100)]
        if n == 0:
            print("held", flush=True)
        time.sleep(0.5)
    sys.exit()

credentials = grpc.ssl_channel_credentials(root_certificates=pathlib.Path(given.certificate).read_bytes())
options = [("grpc.ssl_target_name_override", "sigil"), ("grpc.max_send_message_length", 8 << 20)]
with grpc.secure_channel(given.at, credentials, options) as channel:
    stub = node_pb2_grpc.NodeServiceStub(channel)
    metadata = [("authorization", f"Bearer {given.token}")] if given.token else []
    try:
        for message in stub.Connect(messages[given.how](), metadata=metadata, timeout=20):
            ack = message.register_ack
            print(f"ack {ack.accepted} {ack.error} ({ack.hint})", flush=True)
            if not ack.accepted:
                break
        else:
            print("over", flush=True)
    except grpc.RpcError as error:
        print(f"status {error.code().name} {error.details()}", flush=True)
