"""Runs transport-speed and its peers in turns, round by round, and prints medians, ratios and ratios by round.

Turns, so that a busy minute on a shared machine hits all. Where a peer has two ways to be set up, its better round counts.
Ratios are how many times faster we are. Every side starts anew in each round: nobody's idle threads spin beside another.
"""

import argparse
import datetime
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
BYTES = {"write 16 x 1 MiB": 16 << 20, "write 128 x 64 KiB": 8 << 20, "read 16 x 1 MiB": 16 << 20}
SMALL = "write 4 KiB, acknowledged"
SUMS = [f"all-reduce {kib} KiB" for kib in (4, 64, 1024, 65536)]
# Case, ours, the peers of which we are measured against the best, the least ratio that is wanted.
WANTED = (
    ("write 16 x 1 MiB", "mlxcel tcp", ("NIXL", "Mooncake"), 1.3),
    ("write 16 x 1 MiB", "mlxcel tcp", ("iperf3",), 0.9),
    ("write 128 x 64 KiB", "mlxcel tcp", ("NIXL", "Mooncake"), 1.5),
    ("read 16 x 1 MiB", "mlxcel tcp", ("NIXL", "Mooncake"), None),
    (SMALL, "mlxcel tcp", ("NIXL",), 1.0),
    (SMALL, "mlxcel tcp", ("Mooncake",), None),
    ("write 16 x 1 MiB", "mlxcel tls", ("mlxcel tcp",), None),
    ("write 16 x 1 MiB", "mlxcel quic", ("mlxcel tcp",), 0.55),
    *((case, "mlxcel tcp", ("MLX ring",), least) for case, least in zip(SUMS, (1.5, 1.5, 4.0, 2.0))),
)


def lines(*command: object) -> dict[str, float]:
    """The seconds of each case that a side prints."""
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} {command[-1]} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    return {row["case"]: row["seconds"] for row in rows}


def script(name: str, *arguments: str) -> dict[str, float]:
    return lines(sys.executable, HERE / name, *arguments)


def better(*ways: dict[str, float]) -> dict[str, float]:
    return {case: min(way[case] for way in ways) for case in ways[0]}


def iperf3() -> dict[str, float]:
    """A stream, and two of them: seconds for as many bytes as the first case has."""
    return better(*({"write 16 x 1 MiB": BYTES["write 16 x 1 MiB"] / iperf3_rate(streams)} for streams in (1, 2)))


def iperf3_rate(streams: int) -> float:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    server = subprocess.Popen(["iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", port], stdout=subprocess.DEVNULL)
    try:
        command = ["iperf3", "-c", "127.0.0.1", "-p", port, "-t", "1", "-O", "1", "-l", "1M", "-P", str(streams), "-J"]
        for _ in range(50):
            time.sleep(0.1)
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode == 0:
                return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 8
        raise SystemExit(f"iperf3 failed: {done.stdout}")
    finally:
        server.kill()
        server.wait()


def sides(ours: Path) -> dict:
    return {
        "NIXL": lambda: better(script("nixl_side.py"), script("nixl_side.py", "thread")),
        "Mooncake": lambda: script("mooncake_side.py"),
        "iperf3": iperf3,
        "mlxcel tcp": lambda: lines(ours, "--transport", "tcp"),
        "mlxcel tls": lambda: lines(ours, "--transport", "tls"),
        "mlxcel quic": lambda: lines(ours, "--transport", "quic"),
        "MLX ring": lambda: script("mlx_ring_side.py"),
    }


def shown(case: str, seconds: float) -> str:
    if case in BYTES:
        return f"{BYTES[case] / seconds / 1e9:.2f} GB/s"
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def report(results: dict[str, dict[str, list[float]]]) -> list[str]:
    """The table, from seconds by side and case."""
    table = ["| case | ours | theirs | ratio of medians | wanted | ratios by round |", "|---|---|---|---|---|---|"]
    for case, us, them, least in WANTED:
        ours = results[us][case]
        best = min((results[name][case] for name in them), key=statistics.median)
        name = next(name for name in them if results[name][case] is best)
        ours_median, best_median = statistics.median(ours), statistics.median(best)
        by_round = " ".join(f"{b / a:.2f}" for a, b in zip(ours, best))
        cells = (
            case, f"{us} {shown(case, ours_median)}", f"{name} {shown(case, best_median)}",
            f"{best_median / ours_median:.2f}", f"{least:.1f}" if least else "", by_round,
        )
        table.append(f"| {' | '.join(cells)} |")
    table += ["", "| case | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for case in (*BYTES, SMALL, *SUMS):
        cells = (shown(case, statistics.median(side[case])) if case in side else "" for side in results.values())
        table.append(f"| {case} | {' | '.join(cells)} |")
    return table


def facts(rounds: int) -> dict:
    """Where, when and of what this was measured."""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    commit = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], stdout=subprocess.PIPE, text=True)
    return {
        "date": datetime.date.today().isoformat(), "commit": commit.stdout.strip(), "rounds": rounds,
        "processors": len(os.sched_getaffinity(0)), "cpu": cpu, "kernel": platform.release(),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    about = facts(arguments.rounds)
    results: dict[str, dict[str, list[float]]] = {}
    for round in range(arguments.rounds):
        print(f"round {round + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
        for side, run in sides(arguments.ours).items():
            for case, seconds in run().items():
                results.setdefault(side, {}).setdefault(case, []).append(seconds)
                print(f"  {side}: {case}: {shown(case, seconds)}", file=sys.stderr, flush=True)
    print(", ".join(f"{key} {value}" for key, value in about.items()), end="\n\n")
    print("\n".join(report(results)))
    if arguments.json:
        arguments.json.write_text(json.dumps(about | {"seconds": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
