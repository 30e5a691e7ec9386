"""What a caller's own thread may do: one at a time, and only what is short.

OpenRLHF scores each sample in a thread beside the event loop of an engine. Python runs one thread
at a time, takes the interpreter back after five milliseconds at the earliest, and never in the
middle of a regular expression. So a loop stalls for as long as one call works, times the threads
that are ahead of it. Both are bounded: threads take turns, and what is long goes to the workers,
where reading it costs this process nothing.
"""

from __future__ import annotations

import os
import threading

from vespo_openrlhf.reward.reading.formats import TURN_MARKS

#: Characters that are read here; a worst case of so many takes about two milliseconds.
MAX_READ = 20_000
#: Characters of answers and golds that are compared here; about two milliseconds, too.
MAX_COMPARED = 300
_LAST_TOKEN = 64

turn = threading.Lock()


def _after_fork() -> None:
    global turn
    turn = threading.Lock()  # its holder was a thread of the parent


os.register_at_fork(after_in_child=_after_fork)


def is_short(response: str) -> bool:
    """Whether the answer of a response can be found here; told by plain searches alone.

    Thinking may be long, as it is skipped, but not if a turn might end in the midst of it.
    """
    if len(response) <= MAX_READ:
        return True
    if len(response) - max(response.rfind("</think>"), 0) > MAX_READ:
        return False
    body = len(response) - _LAST_TOKEN
    return not any(response.find(mark, 0, body) >= 0 for mark in TURN_MARKS)
