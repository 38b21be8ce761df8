"""Rank 0 is killed as the kernel kills for memory; the others wait."""

import os
import signal
import time

if os.environ["RANK"] == "0":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
