# SPDX-License-Identifier: GPL-3.0-or-later
"""What host and worker say to each other: JSON objects, one to a line, ASCII.

Host to worker, on its stdin, whose end ends the worker:

| type    | fields                                                                     |
| ------- | -------------------------------------------------------------------------- |
| extract | job, file, out, settings, renews {map, folder}: the map set that one of    |
|         | the maps is for (null when it is for none), standing {map: nanoseconds}:   |
|         | the times of the maps in out that may be replaced                          |
| cancel  | job                                                                        |
| unload  |                                                                            |

Worker to host, appended to the event log in the run folder:

| type      | fields                                                                    |
| --------- | ------------------------------------------------------------------------- |
| hello     | protocol, version, pid                                                    |
| progress  | job, stage, fraction of the whole 0..1, seconds_left (null when unknown)  |
| done      | job, folder, warnings [sentence], seconds                                 |
| failed    | job (null when it belongs to none), message                               |
| cancelled | job                                                                       |
| unloaded  |                                                                           |
| alive     | (every HEARTBEAT seconds while a job runs)                                |

Each job ends with exactly one of done, failed and cancelled.
"""

from __future__ import annotations

import json
from typing import Any

# Raised with every change that an older host or worker would misread.
PROTOCOL = 2
# Names inside the run folder, which the host creates and passes as the worker's first argument.
EVENTS = "events.jsonl"
LOG = "worker.log"
HEARTBEAT = 2.0
ENDINGS = frozenset({"done", "failed", "cancelled"})
PASSING = frozenset({"progress", "alive"})  # the next one says the same, and more

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """One line. ASCII escapes carry any path, also one that is not valid Unicode."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """The message in one line. Raises ValueError for anything but an object with a type."""
    message = json.loads(line)
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError("not a message")
    return message


class LineBuffer:
    """Complete lines out of a stream that arrives in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends; empty lines are dropped."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line for line in lines if line.strip()]
