"""Starts `mlxcel serve` and runs the tests of the `openai` package against it.

    python run.py path/to/mlxcel [MODEL]

The model is the default one unless another is named. Ends with the tests' exit code, or with 1
where the server does not end well.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

KEY = "a key of these tests"


def start(program: str, model: str, state: str) -> tuple[subprocess.Popen, str]:
    """The server, and where it serves."""
    command = [program, "serve", "-m", model, "--port", "0", "--api-key", KEY, "--state-dir", state]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in server.stdout:
        if found := re.search(r"http://\S+", line):
            return server, found.group()
    raise SystemExit(f"the server ended with {server.wait()} before it served")


def main() -> int:
    program, model = (sys.argv[1:] + ["smollm2"])[:2]
    tests = Path(__file__).with_name("test_client.py")
    with tempfile.TemporaryDirectory() as state:
        server, url = start(program, model, state)
        try:
            environment = {**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY}
            code = subprocess.run([sys.executable, tests], env=environment).returncode
        finally:
            server.terminate()
            ended = server.wait(timeout=60)
    if ended != 0 and os.name != "nt":
        print(f"the server ended with {ended}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
