"""Writes an image as a tar to standard output: the Python that runs this, grpcio, and what speaks to it. `./test` has installed both.

    image.py FILE...    files that are put into /app, beside the modules that are made of proto/

The paths of the Python stay as they are, so that it finds itself. It is started as /app/python.
"""

import io
import pathlib
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile

import grpc_tools
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNUSED = re.compile(r"/(test|tests|idlelib|tkinter|ensurepip|lib2to3|turtledemo|pydoc_data|__pycache__|config-[^/]*|site-packages|dist-packages)(/|$)|\.(a|pyc|pyx|pxd|pxi)$|/_(tkinter|test)[^/]*\.so$")


def libraries(path):
    said = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    return re.findall(r"(?:=> |^\s+)(/\S+) \(", said, flags=re.M)


class Image:
    def __init__(self, to):
        self.tar, self.names = tarfile.open(fileobj=to, mode="w|", dereference=True), set()

    def dirs(self, name):
        for parent in reversed(pathlib.PurePosixPath(name).parents):
            self.dir(str(parent))

    def dir(self, name):
        name = name.strip("/")
        if name not in ("", ".") and name not in self.names:
            self.names.add(name)
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            self.tar.addfile(info)

    def file(self, path, name):
        name = str(name).lstrip("/")
        if name in self.names:
            return
        self.dirs(name)
        self.names.add(name)
        data = pathlib.Path(path).read_bytes()
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o755
        self.tar.addfile(info, io.BytesIO(data))

    def tree(self, below, to):
        for path in sorted(pathlib.Path(below).rglob("*")):
            inside = path.relative_to(below)
            if path.is_file() and not UNUSED.search(f"/{inside}"):
                self.file(path, pathlib.PurePosixPath(to) / inside)
                if ".so" in path.name:
                    self.needed(path)

    def needed(self, path):
        for library in libraries(path):
            self.file(library, library)


def main():
    image = Image(sys.stdout.buffer)
    for name in ("tmp", "proc", "sys", "dev", "etc", "app"):
        image.dir(name)
    python = pathlib.Path(sys.executable).resolve()
    image.file(python, python)
    image.needed(python)
    stdlib = sysconfig.get_path("stdlib")
    image.tree(stdlib, stdlib)
    site = pathlib.Path(grpc_tools.__file__).parents[1]
    for package in ("grpc", "google"):
        image.tree(site / package, f"app/{package}")
    image.file(site / "typing_extensions.py", "app/typing_extensions.py")
    with tempfile.TemporaryDirectory() as made:
        words = ["protoc", f"-I{ROOT}/proto", f"--python_out={made}", f"--grpc_python_out={made}"]
        if protoc.main([*words, f"{ROOT}/proto/sigil/v1/tool.proto"]) != 0:
            sys.exit("the modules of tool.proto cannot be made")
        image.tree(made, "app")
    for path in sys.argv[1:]:
        image.file(path, f"app/{pathlib.Path(path).name}")
    link = tarfile.TarInfo("app/python")
    link.type, link.linkname = tarfile.SYMTYPE, str(python)
    image.tar.addfile(link)
    image.tar.close()


main()
