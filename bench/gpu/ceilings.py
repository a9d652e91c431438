"""What a GPU can do at most, by PyTorch: bytes a second of a copy, read and written, and operations of a bf16 product."""

import json
import time

import torch


def seconds(run, times=11, each=8):
    """Of one run, the median of `times` rounds of `each` after three to warm up."""
    taken = []
    for i in range(3 + times):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(each):
            run()
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - begun) / each)
    return sorted(taken[3:])[times // 2]


if __name__ == "__main__":
    def normal(*shape):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    x = normal(1 << 31)
    y = torch.empty_like(x)
    copy = 2 * x.nbytes / seconds(lambda: y.copy_(x))
    a, b = normal(8192, 8192), normal(8192, 8192)
    product = 2 * 8192**3 / seconds(lambda: a @ b)
    print(json.dumps({"case": "ceilings", "copy_terabytes_per_second": copy / 1e12, "product_teraflops": product / 1e12}))
