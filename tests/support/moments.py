"""Sudden death at a chosen moment: SIGKILL when a process comes to a function of the package."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Moment:
    """Entry into a function, the ``call``-th of the process."""

    module: str
    function: str
    call: int = 1

    def __str__(self):
        return f"{self.function}-{self.call}"


def die_at(moment, delay_s):
    """Have this process killed a little after it comes to the moment."""
    place = import_module(f"megatron_longrlvr.{moment.module}")
    *owners, name = moment.function.split(".")
    for owner in owners:
        place = getattr(place, owner)
    original, calls = getattr(place, name), []

    def watched(*args, **kwargs):
        calls.append(name)
        if len(calls) == moment.call:
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return original(*args, **kwargs)

    setattr(place, name, watched)
