"""Stops when asked, as `longrlvr train` does after its step."""

import signal
import sys
import time
from pathlib import Path

signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
(Path(sys.argv[1]) / "waiting").touch()
time.sleep(600)
