"""Tries the API of a real agent against its own description, with schemathesis.

    python run.py SIGIL [SEED]...

Each seed gets agents of its own, in homes that are thrown away: the one that is tried, over loopback HTTP with a token, and
a second one that asks to join it. Nothing is left out for being destructive: what would end the run (joining another mesh,
leaving this one, new and revoked tokens) is refused to whoever comes with a token, and that answer is checked.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
DESCRIPTION = HERE.parents[1] / "docs" / "openapi.json"
# Cases per operation and phase, at most: with them a seed takes about a minute on two cores.
EXAMPLES = os.environ.get("SIGIL_TEST_API_EXAMPLES", "20")
# A run that hangs is a failure, not a wait.
TIMEOUT_S = 600

SETTINGS = """
[discovery]
lan = false

# That this disk is nearly full is not what is tried here.
[storage]
free_min = "1MB"

[tools."echo"]
command = "cat"
effect = "none"

[tools."slow"]
command = "sleep"
args = ["1"]
effect = "once"
"""


class Agent:
    """An agent of its own home."""

    def __init__(self, sigil, home, name):
        self.sigil, self.home = sigil, home
        home.mkdir(mode=0o700)
        (home / "sigil.toml").write_text(SETTINGS)
        self.cli("up", "--detach", "--name", name)
        self.status = json.loads(self.cli("status", "--json"))

    def cli(self, *args, check=True):
        command = [self.sigil, "--home", str(self.home), *args]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if check and done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def address(self):
        port = self.status["endpoints"]["quic"][0].rsplit(":", 1)[1]
        return f"127.0.0.1:{port}"

    def words(self):
        return "-".join(self.status["check"]["words"])

    def code(self):
        return json.loads(self.cli("invite", "--json"))["code"]

    def log(self):
        return "".join(file.read_text(errors="replace") for file in (self.home / "logs").glob("*") if file.is_file())


def try_api(sigil, seed):
    """Runs one seed; true if nothing failed."""
    with tempfile.TemporaryDirectory(prefix="sigil-api-") as work:
        agents = []
        try:
            attic, bureau = (agents.append(Agent(sigil, Path(work) / name, name)) or agents[-1] for name in ("attic", "bureau"))
            # Somebody to approve, or to reject.
            bureau.cli("join", "--address", attic.address(), "--yes", attic.words(), check=False)
            environment = {
                **os.environ,
                "PYTHONPATH": str(HERE),
                "PYTHONDONTWRITEBYTECODE": "1",
                "SIGIL_API_TOKEN": attic.cli("token").strip(),
                "SIGIL_API_CODES": attic.code(),
                "SIGIL_API_ADDRESSES": f"{bureau.address()}\n{attic.address()}",
                "SIGIL_API_WORDS": f"{bureau.words()}\n{attic.words()}",
            }
            command = [
                Path(sys.executable).with_name("schemathesis"),
                *("--config-file", HERE / "schemathesis.toml", "run", DESCRIPTION),
                *("--url", attic.status["endpoints"]["http"], "--seed", seed, "--max-examples", EXAMPLES),
                *("--phases", "examples,coverage,fuzzing,stateful", "--mode", "all", "--no-color"),
            ]
            began = time.monotonic()
            passed = subprocess.run([str(part) for part in command], env=environment, cwd=work, timeout=TIMEOUT_S).returncode == 0
            print(f"seed {seed}: {'ok' if passed else 'FAILED'}, {time.monotonic() - began:.0f} s", flush=True)
            # It is still there, and well.
            attic.cli("status")
            if "panicked" in attic.log():
                print("the agent panicked:\n" + attic.log()[-4000:])
                return False
            return passed
        finally:
            for agent in agents:
                agent.cli("down", check=False)


def main():
    sigil, seeds = str(Path(sys.argv[1]).resolve()), sys.argv[2:] or ["1"]
    failed = [seed for seed in seeds if not try_api(sigil, seed)]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; `{sys.executable} {__file__} {sigil} SEED` runs one again")


if __name__ == "__main__":
    main()
