"""What the sides in Python share: the cases, their memory, how often a case is run, and the process at the other end."""

import json
import statistics
import subprocess
import sys
import time

import numpy

# Name, operation, blocks, bytes of a block. The blocks lie in reverse order at the other end, as the pages of a cache
# lie anywhere: nobody can merge them.
CASES = (
    ("write 16 x 1 MiB", "write", 16, 1 << 20),
    ("write 128 x 64 KiB", "write", 128, 64 << 10),
    ("read 16 x 1 MiB", "read", 16, 1 << 20),
    ("write 4 KiB, acknowledged", "write", 1, 4 << 10),
)
SIZE = 16 << 20  # of what is written, and again of what is read, at both ends
SECONDS, WARM_UP = 0.5, 5
HERE, THERE = 1, 2  # seeds


def pattern(seed: int) -> numpy.ndarray:
    """Page-aligned memory, every page touched: one half for writes, one for reads, unlike for every seed."""
    raw = numpy.empty(2 * SIZE + 4096, numpy.uint8)
    start = -raw.ctypes.data % 4096
    memory = raw[start : start + 2 * SIZE]
    words = memory.view(numpy.uint32)
    words[:] = numpy.arange(len(words), dtype=numpy.uint32) * numpy.uint32(2654435761) + numpy.uint32(seed)
    return memory


def places(operation: str, count: int, size: int) -> list[tuple[int, int]]:
    """Where each block lies here and at the other end."""
    half = SIZE if operation == "read" else 0
    return [(half + block * size, half + (count - 1 - block) * size) for block in range(count)]


def moved(seed: int, target: numpy.ndarray, operation: str, count: int, size: int) -> bool:
    """Whether the blocks of the other end's memory are at their places in `target`."""
    source = pattern(seed)
    pairs = places(operation, count, size)
    return all(numpy.array_equal(source[a : a + size], target[b : b + size]) for a, b in pairs)


def check(there: "Peer", memory: numpy.ndarray, operation: str, count: int, size: int) -> None:
    """Ends the program unless the case's bytes have arrived, at whichever end they should."""
    if operation == "read":
        right = moved(THERE, memory, operation, count, size)
    else:
        right = there.ask(f"{count} {size}") == "True"
    if not right:
        raise SystemExit(f"{operation} of {count} blocks of {size} bytes moved other bytes")


def answer(line: str, memory: numpy.ndarray) -> None:
    """What the other end says to `check`."""
    count, size = map(int, line.split())
    say(str(moved(HERE, memory, "write", count, size)))


def measure(once) -> float:
    """The median seconds of `once`, warmed up."""
    for _ in range(WARM_UP):
        once()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 9:
        begun = time.perf_counter()
        once()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def tell(case: str, seconds: float) -> None:
    print(json.dumps({"case": case, "seconds": seconds}), flush=True)


class Peer:
    """This script again, as the other end, spoken to in lines."""

    def __init__(self, *arguments: str):
        command = [sys.executable, sys.argv[0], "peer", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self) -> str:
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit("the other end died")
            if line.startswith("> "):  # Anything else is a library's chatter.
                return line[2:].strip()

    def ask(self, line: str) -> str:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def say(line: str) -> None:
    print("> " + line, flush=True)
