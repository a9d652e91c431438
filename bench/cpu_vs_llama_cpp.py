"""Runs the cases of cpu_vs_llama_cpp.sh in turns, and prints medians, ratios and the roofline.

Turns, so that a busy minute on a shared machine hits both. The concurrent case speaks HTTP to both servers, which run
side by side and are asked one after the other.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

SEQUENCES, PROMPT, OUTPUT = 16, 128, 64
THREADS = len(os.sched_getaffinity(0))


def lines(*command: object) -> list[dict]:
    """What a program prints, a JSON object a line."""
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def llama_bench(llama: Path, model: Path, prompt: int, output: int) -> dict[str, float]:
    rows = lines(llama / "llama-bench", "-m", model, "-p", prompt, "-n", output, "-r", 1, "-t", THREADS, "-o", "jsonl")
    return {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in rows}


def engine_speed(ours: Path, model: Path, prompt: int, output: int) -> dict[str, float]:
    sizes = ("--prefill", prompt) if prompt else ("--prefill", 1)
    rows = lines(ours / "engine-speed", "--cpu", "--model", model, *sizes, "--context", 1, "--decode", output, "--runs", 1)
    return {row["case"]: row["tokens_per_second"] for row in rows}


def bandwidth(ours: Path) -> float:
    return lines(ours / "memory-bandwidth")[0]["bytes_per_second"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A server of either kind, while the block runs."""

    def __init__(self, command: list[object], port: int):
        self.log = tempfile.TemporaryFile()
        self.base = f"http://127.0.0.1:{port}"
        parts = [str(part) for part in command]
        self.process = subprocess.Popen(parts, stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def __enter__(self) -> "Server":
        deadline = time.monotonic() + 300
        while True:
            try:
                self.complete(list(range(5, 9)), 1)
                return self
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.log.seek(0)
                    raise SystemExit(f"a server did not start:\n{self.log.read().decode(errors='replace')[-3000:]}")
                time.sleep(0.2)

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait()

    def complete(self, prompt: list[int], tokens: int) -> int:
        """Tokens generated for a prompt of token ids."""
        body = {"model": "bench", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(
            f"{self.base}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.load(response)["usage"]["completion_tokens"]

    def concurrent(self, salt: int) -> float:
        """Generated tokens a second of all sequences, their prefill included."""
        counts: list[int] = []

        def one(sequence: int) -> None:
            # No two prompts share a beginning: neither side may answer from a cache of prefixes.
            first = 7919 * sequence + 104729 * salt
            prompt = [5 + (first + index * 2654435761) % 30000 for index in range(PROMPT)]
            counts.append(self.complete(prompt, OUTPUT))

        threads = [threading.Thread(target=one, args=(sequence,)) for sequence in range(SEQUENCES)]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - begun
        if counts != [OUTPUT] * SEQUENCES:
            raise SystemExit(f"{self.base} generated {counts} tokens, not {OUTPUT} each")
        return sum(counts) / took


def concurrent_rounds(arguments: argparse.Namespace, results: dict) -> None:
    ports, state = [free_port(), free_port()], tempfile.mkdtemp()
    context = SEQUENCES * (PROMPT + OUTPUT + 64)
    theirs = [
        arguments.llama / "llama-server", "-m", arguments.model, "-np", SEQUENCES, "-c", context, "-t", THREADS,
        "--port", ports[0], "--no-webui", "--ignore-eos",
    ]
    ours = [
        arguments.ours / "mlxcel", "serve", "--device", "cpu", "--model", arguments.model, "--alias", "bench",
        "--port", ports[1], "--state-dir", state,
    ]
    try:
        with Server(theirs, ports[0]) as llama, Server(ours, ports[1]) as mlxcel:
            for side, server in (("llama.cpp", llama), ("mlxcel", mlxcel)):
                server.concurrent(0)  # warms up
            for round in range(1, arguments.rounds + 1):
                for side, server in (("llama.cpp", llama), ("mlxcel", mlxcel)):
                    note(results, f"{SEQUENCES} concurrent", side, server.concurrent(round))
    finally:
        shutil.rmtree(state, ignore_errors=True)


def note(results: dict, case: str, side: str, rate: float) -> None:
    results.setdefault(case, {}).setdefault(side, []).append(rate)
    print(f"  {case}: {side} {rate:.1f} tok/s", flush=True)


def single_rounds(arguments: argparse.Namespace, results: dict, bandwidths: list[float]) -> None:
    for round in range(arguments.rounds):
        print(f"round {round + 1} of {arguments.rounds}", flush=True)
        bandwidths.append(bandwidth(arguments.ours))
        sides = (("llama.cpp", llama_bench, arguments.llama), ("mlxcel", engine_speed, arguments.ours))
        for name, model, prompt, output in (("", arguments.model, 512, 128), ("1B shape ", arguments.shape, 0, 48)):
            for side, run, programs in sides:
                rates = run(programs, model, prompt, output)
                for case in ("decode", "prefill") if prompt else ("decode",):
                    note(results, name + case, side, rates[case])


def report(arguments: argparse.Namespace, results: dict, bandwidths: list[float]) -> None:
    print("\n| case | llama.cpp tok/s | mlxcel tok/s | ratio of medians | ratios by round |")
    print("|---|---|---|---|---|")
    for case, sides in results.items():
        theirs, ours = sides["llama.cpp"], sides["mlxcel"]
        by_round = " ".join(f"{b / a:.2f}" for a, b in zip(theirs, ours))
        a, b = statistics.median(theirs), statistics.median(ours)
        print(f"| {case} | {a:.1f} | {b:.1f} | {b / a:.2f} | {by_round} |")
    speed = statistics.median(bandwidths)
    print(f"\nMemory is read at {speed / 1e9:.1f} GB/s by {THREADS} threads. A token of one sequence reads all weights:\n")
    print("| model | bytes | at that speed, tok/s | llama.cpp | mlxcel |")
    print("|---|---|---|---|---|")
    for case, model in (("decode", arguments.model), ("1B shape decode", arguments.shape)):
        size = model.stat().st_size
        most = speed / size
        reached = [statistics.median(results[case][side]) / most for side in ("llama.cpp", "mlxcel")]
        print(f"| {model.name} | {size / 1e6:.0f} MB | {most:.1f} | {reached[0]:.0%} | {reached[1]:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "shape", "llama", "ours"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    results: dict = {}
    bandwidths: list[float] = []
    single_rounds(arguments, results, bandwidths)
    concurrent_rounds(arguments, results)
    report(arguments, results, bandwidths)


if __name__ == "__main__":
    main()
