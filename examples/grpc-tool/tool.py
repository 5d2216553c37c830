"""A tool of sigil that is a gRPC server, in Python: grpcio and proto/sigil/v1/tool.proto are all that it needs.

It listens on the loopback of its own container, where nobody else is. The port comes from the manifest.
"""

import json
import os
import time
from concurrent import futures

import grpc
from sigil.v1 import tool_pb2 as pb
from sigil.v1 import tool_pb2_grpc

COUNT = {
    "type": "object",
    "properties": {
        "to": {"type": "integer", "minimum": 1, "maximum": 100000},
        "seconds": {"type": "number", "minimum": 0, "maximum": 600},
    },
    "required": ["to"],
    "additionalProperties": False,
}
DRAW = {
    "type": "object",
    "properties": {"text": {"type": "string", "maxLength": 100}},
    "required": ["text"],
    "additionalProperties": False,
}


def progress(note, fraction):
    return pb.ExecuteEvent(progress=pb.ExecuteEvent.Progress(note=note, fraction=fraction))


def end(status=pb.ExecuteEvent.STATUS_OK, reason=""):
    return pb.ExecuteEvent(end=pb.ExecuteEvent.End(status=status, reason=reason))


def part(media_type, name, data):
    yield pb.ExecuteEvent(part=pb.ExecuteEvent.PartStart(media_type=media_type, name=name))
    # A message has at most 1 MiB.
    for at in range(0, len(data), 256 * 1024):
        yield pb.ExecuteEvent(data=data[at : at + 256 * 1024])


def count(arguments, context):
    """Counts, and tells how far it is. It stops as soon as nobody waits any more."""
    to, seconds = arguments["to"], arguments.get("seconds", 0)
    for n in range(1, to + 1):
        if not context.is_active():
            return
        time.sleep(seconds / to)
        yield progress(f"counted to {n}", n / to)
    yield pb.ExecuteEvent(data=json.dumps({"counted": to}).encode())
    yield end()


def draw(arguments, context):
    """Three parts: a picture, what it is of, and a line of JSON."""
    text = arguments["text"]
    shown = text.replace("&", "&amp;").replace("<", "&lt;")
    picture = f'<svg xmlns="http://www.w3.org/2000/svg" width="400" height="60"><text x="9" y="40">{shown}</text></svg>'
    yield from part("image/svg+xml", "text.svg", picture.encode())
    yield from part("text/plain", "text.txt", text.encode())
    yield from part("application/json", "", json.dumps({"letters": len(text)}).encode())
    yield pb.ExecuteEvent(log=f"drew {len(text)} letters")
    yield end()


TOOLS = {
    "count": (count, COUNT, "Counts to a number, slowly if asked to", "none"),
    "draw": (draw, DRAW, "Draws a text", "none"),
}


class Tools(tool_pb2_grpc.ToolServiceServicer):
    def __init__(self, tools=None):
        self.tools = tools or TOOLS

    def Describe(self, request, context):
        tools = [
            pb.ToolSpec(name=name, description=description, input_schema=json.dumps(schema), effect=effect)
            for name, (_, schema, description, effect) in self.tools.items()
        ]
        return pb.DescribeResponse(name="python-grpc-tool", version="1.0.0", tools=tools)

    def Execute(self, request, context):
        run = self.tools.get(request.tool)
        if run is None:
            yield end(pb.ExecuteEvent.STATUS_FAILED, f"there is no tool {request.tool}")
            return
        yield from run[0](json.loads(request.arguments), context)


def serve(tools=None):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    tool_pb2_grpc.add_ToolServiceServicer_to_server(Tools(tools), server)
    server.add_insecure_port(f"127.0.0.1:{os.environ.get('SIGIL_GRPC_PORT', '50051')}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve()
