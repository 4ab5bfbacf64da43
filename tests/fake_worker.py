# SPDX-License-Identifier: GPL-3.0-or-later
"""The real worker with one engine swapped in that can be slow, deaf or deadly.

Run as the client runs the real one: `python -m tests.fake_worker RUN_DIR IDLE_SECONDS`.
`FAKE_PROTOCOL` in the environment makes it claim another protocol version.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from blender_omnix import engines
from blender_omnix.errors import Cancelled, OmnixError
from blender_omnix.worker import server
from tests.fakes import BoxRoomEngine

LONG = 600.0


class FakeEngine(BoxRoomEngine):
    """A box room engine whose `mode` says what its prediction does first.

    quick: nothing; slow: work that looks up now and then; deaf: work that never does, like a
    forward pass; library: looks at stdin, as some do when they are loaded; killed, crash,
    exit: the process ends; refuse, defect, memory, tensors, path, runtime, slim: an exception.
    sky: it sees nothing else. With `once` it does so for the first job of the process alone.
    """

    made = 0
    jobs = 0

    def __init__(self, mode: str = "quick", once: bool = False) -> None:
        super().__init__()
        FakeEngine.made += 1
        self.mode = mode
        self.once = once
        self.loaded = False

    def load(self, progress) -> None:
        if not self.loaded:
            super().load(progress)
            self.loaded = True

    def unload(self) -> None:
        self.loaded = False

    def predict(self, panorama, maps, progress, cancelled, seed=0):
        progress("Albedo", 0.0)
        FakeEngine.jobs += 1
        if self.once and FakeEngine.jobs > 1:
            self.mode = "quick"
        if self.mode == "slow":
            self._work(progress, cancelled)
        elif self.mode == "library":
            assert sys.stdin.read() == ""
        elif self.mode == "deaf":
            time.sleep(LONG)
        elif self.mode == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.mode == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif self.mode == "exit":
            sys.stderr.write("ModuleNotFoundError: No module named 'torch'\n")
            sys.stderr.flush()
            os._exit(1)
        elif self.mode == "refuse":
            raise OmnixError("model.safetensors is missing; install the extension again.")
        elif self.mode == "defect":
            raise TypeError("a defect")
        elif self.mode == "memory":
            raise MemoryError
        elif self.mode == "tensors":
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 8589934592 bytes."
            )
        elif self.mode == "path":
            raise PermissionError(13, "Permission denied", "/disk/weights")
        elif self.mode == "runtime":
            raise ImportError("DLL load failed")
        elif self.mode == "slim":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        prediction = super().predict(panorama, maps, progress, cancelled, seed)
        if self.mode == "sky":
            prediction["sky"][:] = 1.0
        return prediction

    def _work(self, progress, cancelled) -> None:
        end = time.monotonic() + LONG
        while time.monotonic() < end:
            if cancelled():
                raise Cancelled
            progress("Albedo", 0.5)
            time.sleep(0.02)

    def adapters(self):
        return [{"process": os.getpid(), "engines": FakeEngine.made, "loads": self.loads}]


def main() -> None:
    engines.create = lambda name, options=None: FakeEngine(**(options or {}))
    server.PROTOCOL = int(os.environ.get("FAKE_PROTOCOL", server.PROTOCOL))
    server.main(sys.argv[1:])


if __name__ == "__main__":
    main()
