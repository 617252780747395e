"""While a step is done again nothing outside is reached; before and after, and for everybody else, all is as usual."""

import asyncio
import socket
import subprocess
import threading

import pytest

from obzen_runtime.kernel import PermissionDenied
from obzen_runtime.stages import refused_by, refusing

CALLS = {
    "socket.connect": lambda: socket.socket().connect(("127.0.0.1", 9)),
    "socket.sendto": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
    "socket.getaddrinfo": lambda: socket.getaddrinfo("localhost", 80),
    "subprocess.Popen": lambda: subprocess.run(["/bin/true"], check=False),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("call", CALLS)
def test_a_call_to_the_outside_raises_and_is_remembered_by_stage(call):
    with refusing("t"), pytest.raises(PermissionDenied, match=call):
        CALLS[call]()
    assert refused_by("t") == call
    assert refused_by("t") == "", "asked once"


def test_tasks_of_a_step_are_held_and_other_threads_are_not():
    async def main():
        with refusing("t"):
            inside = asyncio.create_task(lookup())
        with pytest.raises(PermissionDenied):
            await inside
        await lookup()

    async def lookup():
        socket.getaddrinfo("localhost", 80)

    asyncio.run(main())
    found = []
    with refusing("t"):
        thread = threading.Thread(target=lambda: found.append(socket.getaddrinfo("localhost", 80)))
        thread.start()
        thread.join()
    assert found
    assert refused_by("t") == "socket.getaddrinfo"
