"""Mooncake's transfer engine over TCP: registered memory, one batch a case, peers that find each other by handshake.

Its connections are pooled, which is faster than its default of a new one for each transfer. Prints a JSON line a case.
"""

import os
import sys

os.environ.update(MC_TCP_BIND_ADDRESS="127.0.0.1", MC_FORCE_TCP="1", MC_LOG_LEVEL="ERROR")
os.environ.setdefault("MC_TCP_ENABLE_CONNECTION_POOL", "1")

from mooncake.engine import TransferEngine  # noqa: E402

import blocks  # noqa: E402


def start(seed: int) -> tuple:
    engine = TransferEngine()
    if engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") != 0:
        raise SystemExit("Mooncake did not start")
    memory = blocks.pattern(seed)
    if engine.register_memory(memory.ctypes.data, len(memory)) != 0:
        raise SystemExit("Mooncake registered no memory")
    return engine, memory


def peer() -> None:
    engine, memory = start(blocks.THERE)
    blocks.say(f"127.0.0.1:{engine.get_rpc_port()} {memory.ctypes.data}")
    for line in sys.stdin:
        blocks.answer(line, memory)


def main() -> None:
    engine, memory = start(blocks.HERE)
    there = blocks.Peer()
    name, address = there.hear().split()
    for case, operation, count, size in blocks.CASES:
        places = blocks.places(operation, count, size)
        local = [memory.ctypes.data + at for at, _ in places]
        remote = [int(address) + at for _, at in places]
        move = getattr(engine, f"batch_transfer_sync_{operation}")

        def once() -> None:
            if move(name, local, remote, [size] * count) != 0:
                raise SystemExit("Mooncake failed")

        seconds = blocks.measure(once)
        blocks.check(there, memory, operation, count, size)
        blocks.tell(case, seconds)
    there.end()


if __name__ == "__main__":
    peer() if sys.argv[1:2] == ["peer"] else main()
