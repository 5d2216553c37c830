"""A hostile tool: tries what no tool may, and prints what got through, one line each.

Whether something got through is counted outside as well, by what it has done. Arguments: what there is to attack, as JSON on
standard input. Numbers of rows are those of `tests/it/sandbox.rs`.
"""

import ctypes
import errno
import json
import os
import platform
import signal
import socket
import subprocess
import sys

given = json.load(sys.stdin)
libc = ctypes.CDLL(None, use_errno=True)
machine = 0 if platform.machine() == "x86_64" else 1
CALLS = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "kcmp": (312, 272), "mount": (165, 40), "unshare": (272, 97),
    "chroot": (161, 51), "pivot_root": (155, 41), "setns": (308, 268), "bpf": (321, 280), "keyctl": (250, 219),
    "add_key": (248, 217), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "open_by_handle_at": (304, 265), "fsopen": (430, 430), "clone3": (435, 435),
}
PROTECTED = (errno.EPERM, errno.EACCES)


def call(name, *args):
    """The result of a system call, and its error."""
    ctypes.set_errno(0)
    result = libc.syscall(CALLS[name][machine], *[ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args])
    return result, ctypes.get_errno()


def through(row, what):
    if row:
        print(row, what, flush=True)


def attempt(row, what, action):
    """`action` must raise, or give something false."""
    try:
        if action():
            through(row, what)
    except (OSError, MemoryError, subprocess.SubprocessError, RuntimeError):
        pass


def refused(row, name, *args):
    """The call must be refused as not permitted, whatever is wrong with its arguments."""
    result, error = call(name, *args)
    if result >= 0 or error not in PROTECTED:
        through(row, f"{name}: {result}, {errno.errorcode.get(error, error)}")


def write(path):
    with open(path, "a") as file:
        file.write("attacked")
    return True


def read(path):
    with open(path, "rb") as file:
        return len(file.read(64)) > 0


for path in given["reads"]:
    attempt(4, f"read {path}", lambda: read(path))
    attempt(4, f"link {path}", lambda: os.link(path, "link") is None and read("link"))
# In a world of its own these may succeed, in there: what counts is what has become of the files outside.
row = 0 if given["private"] else 1
for path in given["writes"]:
    attempt(row, f"write {path}", lambda: write(path))
    attempt(row, f"write beside {path}", lambda: write(os.path.join(os.path.dirname(path), "attacked")))
    attempt(row, f"remove {path}", lambda: os.remove(path) is None)

agent = given["agent"]
for name in ("environ", "maps", "mem", "cmdline", "root/etc/passwd", "cwd/."):
    attempt(7, f"/proc/{agent}/{name}", lambda: read(f"/proc/{agent}/{name}"))
refused(9, "ptrace", 16, agent, 0, 0)
refused(9, "process_vm_readv", agent, 0, 0, 0, 0, 0)
refused(9, "kcmp", agent, agent, 0, 0, 0)
listed = {"PATH", "HOME", "LANG", "TMPDIR", "GIVEN", "LC_CTYPE", "SIGIL_OUT"}
for name in set(os.environ) - listed:
    through(10, f"environment: {name}")

children = []
try:
    for _ in range(1500):
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
    through(11, "1500 processes")
except OSError:
    pass
print("# processes", len(children), flush=True)
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
attempt(12, "2 GiB", lambda: len(bytearray(2 << 30)))

for pid in (agent, given["victim"]):
    for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM):
        if number == signal.SIGTERM or pid == given["victim"]:
            attempt(16, f"signal {number} to {pid}", lambda: os.kill(pid, number) is None)
attempt(16, "signal 0 to the agent", lambda: os.kill(agent, 0) is None)

attempt(17, "raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
attempt(18, "packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
attempt(19, "vsock", lambda: socket.socket(40, socket.SOCK_STREAM, 0))
attempt(19, "netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))


def tcp(host, port):
    with socket.create_connection((host, port), timeout=2) as connection:
        return connection.send(b"x")


def udp(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        return made.sendto(b"x", (host, port))


for host in given["hosts"]:
    attempt(20, f"tcp {host}", lambda: tcp(host, given["tcp"]))
    attempt(21, f"udp {host}", lambda: udp(host, given["udp"]))
attempt(25, "metadata", lambda: tcp("169.254.169.254", 80))
attempt(26, "names", lambda: socket.getaddrinfo("example.org", 80))


def unix(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.connect(path)
        return made.send(b"x")


def by_pair(path):
    ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return ours.sendto(b"x", path)


for path in given["sockets"]:
    attempt(27, f"socket {path}", lambda: unix(path))
attempt(27, "socket of datagrams, by a pair", lambda: by_pair(given["datagrams"]))
attempt(28, "abstract socket", lambda: unix("\0" + given["abstract"]))
with socket.socketpair()[0] as pair:
    attempt(27, "connecting a pair anew", lambda: pair.connect(given["sockets"][0]) is None)

with open("/proc/self/status") as status:
    if "NoNewPrivs:\t1" not in status.read():
        through(29, "new privileges")
if given["setuid"]:
    attempt(29, "setuid", lambda: subprocess.run([given["setuid"], "-u"], capture_output=True).stdout.strip() == b"0")
refused(30, "mount", 0, 0, 0, 0, 0)
refused(30, "unshare", 0x10000000)
refused(30, "chroot", 0)
refused(30, "pivot_root", 0, 0)
refused(30, "setns", 0, 0)
refused(30, "fsopen", 0, 0)
refused(30, "open_by_handle_at", 0, 0, 0)
if call("clone3", 0, 0)[1] != errno.ENOSYS:
    through(30, "clone3")
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run",
             "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/release_agent"):
    attempt(31, path, lambda: write(path))
for path in ("/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/loop0", "/dev/kvm", "/dev/fuse", "/dev/tty"):
    attempt(32, path, lambda: os.open(path, os.O_RDWR) >= 0)
attempt(32, "mknod", lambda: os.mknod("null", 0o20666, os.makedev(1, 3)) is None and os.open("null", os.O_RDWR) >= 0)
refused(33, "io_uring_setup", 8, 0)
refused(33, "bpf", 0, 0, 0)
refused(33, "keyctl", 0, 0, 0, 0, 0)
refused(33, "add_key", 0, 0, 0, 0, 0)
refused(33, "perf_event_open", 0, 0, 0, 0, 0)
refused(33, "userfaultfd", 0)

for path in ("left", "/tmp/left", "/var/tmp/left", "/dev/shm/left"):
    attempt(35, f"{path} is still there", lambda: read(path))
    attempt(0, "", lambda: write(path) and False)
attempt(0, "", lambda: subprocess.Popen(["setsid", "sleep", given["daemon"]]) and False)
print("# done", flush=True)
