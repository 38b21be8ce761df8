"""Rank 0 is killed; rank 1 finishes what it writes when it is told, and then never ends."""

import os
import signal
import sys
import time
from pathlib import Path


def finish(*_):
    time.sleep(1)
    (Path(sys.argv[1]) / "saved").write_text("whole")
    time.sleep(600)


signal.signal(signal.SIGTERM, finish)
(Path(sys.argv[1]) / f"ready-{os.environ['RANK']}").touch()
while len(list(Path(sys.argv[1]).glob("ready-*"))) < 2:
    time.sleep(0.05)
if os.environ["RANK"] == "0":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
