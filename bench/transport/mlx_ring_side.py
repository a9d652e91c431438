"""MLX's own ring on the CPU, two ranks: the sum of 32-bit floats over both, some in a row in one graph.

In a row, so that what a graph costs to start is shared, as by the layers of a model. Prints a JSON line a size.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import blocks

SIZES = ((4 << 10, 16), (64 << 10, 16), (1 << 20, 2), (64 << 20, 1))  # bytes, how many in a row


def rank() -> None:
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    group = mx.distributed.init(strict=True, backend="ring")
    for size, row in SIZES:
        values = mx.full((size // 4,), group.rank() + 1.0, dtype=mx.float32)
        mx.eval(values)

        def once() -> None:
            total = values
            for _ in range(row):
                total = mx.distributed.all_sum(total)
            mx.eval(total)
            once.total = total

        seconds = measure_together(mx, once) / row
        if not mx.all(once.total == 3.0 * 2.0 ** (row - 1)).item():
            raise SystemExit("MLX added wrongly")
        if group.rank() == 0:
            blocks.tell(f"all-reduce {size >> 10} KiB", seconds)


def measure_together(mx, once) -> float:
    """The median seconds of `once`, called as often by both ranks."""

    def timed() -> float:
        begun = time.perf_counter()
        once()
        return time.perf_counter() - begun

    for _ in range(blocks.WARM_UP):
        timed()
    guess = mx.distributed.all_sum(mx.array([statistics.median(timed() for _ in range(3))])).item() / 2
    count = max(9, min(5000, int(blocks.SECONDS / guess)))
    return statistics.median(timed() for _ in range(count))


def main() -> None:
    sockets = [socket.socket() for _ in range(2)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    hosts = [[f"127.0.0.1:{listener.getsockname()[1]}"] for listener in sockets]
    for listener in sockets:
        listener.close()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(hosts, file)
        file.flush()
        ranks = []
        for number in range(2):
            environment = dict(os.environ, MLX_RANK=str(number), MLX_HOSTFILE=file.name)
            ranks.append(subprocess.Popen([sys.executable, __file__, "rank"], env=environment))
        if any([process.wait() for process in ranks]):
            raise SystemExit("a rank failed")


if __name__ == "__main__":
    rank() if sys.argv[1:2] == ["rank"] else main()
