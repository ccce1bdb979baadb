"""The child process: requests arrive through one pipe, their results leave through another.

Started as `python -m grading.run.child IN OUT`. The first message holds its limits as JSON; then come pairs of
messages, a tree as JSON and a request. The child has no oracles, and in a sandbox it can't read their files.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from grading.run.family import keep
from grading.run.landlock import restrict
from grading.run.limits import forbid_network, forbid_reading, limit_memory, limit_the_rest
from grading.run.pipe import read_message, write_message
from grading.run.relay import listen_inside
from grading.run.sandbox import RELAY


def main() -> None:
    incoming, outgoing = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
    setup = json.loads(read_message(incoming) or b"{}")
    if setup["kept"]:
        keep()

    from grading.course.trees import Tree
    from grading.data.request import Request
    from grading.data.result import Result, Trouble
    from grading.run import counters  # noqa: F401 - now, not when a submission could have changed what it imports
    from grading.run.integrity import Integrity
    from grading.run.observer import observe

    if setup["relay"]:
        listen_inside(setup["relay"], RELAY)
    if setup["landlock"]:
        restrict(**setup["landlock"])
    forbid_reading([Path(root) for root in setup["forbidden"]], [Path(path) for path in setup["readable"]])
    if setup["memory_mb"]:
        limit_memory(setup["memory_mb"])
    if setup["limited"]:
        limit_the_rest()
    if setup["loopback"]:
        forbid_network()
    write_message(outgoing, b"ready")
    integrity = Integrity()
    while (message := read_message(incoming)) is not None:
        whose = json.loads(message)
        tree = Tree(
            whose["name"], tuple(Path(root) for root in whose["roots"]), whose["library"], stranger=whose["stranger"]
        )
        result, _ = observe(Request.decode(read_message(incoming) or b""), tree, whose["exercise"])
        if replaced := integrity.put_back():
            why = f"the submission replaced what observes it: {', '.join(replaced[:3])}"
            result = Result(trouble=Trouble("died", why), printed=result.printed)
        try:
            answer = result.encode()
        except MemoryError:
            answer = Result(trouble=Trouble("memory", "ran out of memory")).encode()
        write_message(outgoing, answer)


if __name__ == "__main__":
    main()
