"""NIXL with UCX over TCP: prepared descriptor lists, one transfer a case, polled until it is done.

Done means that the other end has acknowledged it. The other end spins: UCX moves nothing there unless somebody drives
it, and its progress thread beside a spinning caller is slower on two cores. Prints a JSON line a case.
"""

import os
import select
import sys

os.environ.update(UCX_TLS="tcp", UCX_NET_DEVICES="lo", NIXL_LOG_LEVEL="WARN")

from nixl_cu12._api import nixl_agent, nixl_agent_config  # noqa: E402

import blocks  # noqa: E402


def start(name: str) -> tuple:
    thread = "thread" in sys.argv[1:]
    agent = nixl_agent(name, nixl_agent_config(enable_prog_thread=thread, backends=["UCX"]))
    memory = blocks.pattern(blocks.HERE if name == "here" else blocks.THERE)
    agent.register_memory([(memory.ctypes.data, len(memory), 0, "")], "DRAM")
    return agent, memory, thread


def peer() -> None:
    agent, memory, thread = start("there")
    blocks.say(f"{agent.get_agent_metadata().hex()} {memory.ctypes.data}")
    waiting = select.poll()
    waiting.register(sys.stdin, select.POLLIN)
    while True:
        while not waiting.poll(1000 if thread else 0):
            for _ in range(1 if thread else 1000):
                agent.get_new_notifs()
        line = sys.stdin.readline()
        if not line:
            return
        blocks.answer(line, memory)


def main() -> None:
    agent, memory, _ = start("here")
    there = blocks.Peer(*sys.argv[1:])
    metadata, address = there.hear().split()
    name = agent.add_remote_agent(bytes.fromhex(metadata))
    for case, operation, count, size in blocks.CASES:
        places = blocks.places(operation, count, size)
        local = agent.prep_xfer_dlist("", [(memory.ctypes.data + at, size, 0) for at, _ in places], "DRAM")
        remote = agent.prep_xfer_dlist(name, [(int(address) + at, size, 0) for _, at in places], "DRAM")
        every = list(range(count))
        transfer = agent.make_prepped_xfer(operation.upper(), local, every, remote, every, b"")

        def once() -> None:
            state = agent.transfer(transfer)
            while state != "DONE":
                if state == "ERR":
                    raise SystemExit("NIXL failed")
                state = agent.check_xfer_state(transfer)

        seconds = blocks.measure(once)
        blocks.check(there, memory, operation, count, size)
        blocks.tell(case, seconds)
    there.end()


if __name__ == "__main__":
    peer() if sys.argv[1:2] == ["peer"] else main()
    # Its teardown crashes where the other end is gone already.
    sys.stdout.flush()
    os._exit(0)
