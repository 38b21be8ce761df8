"""Every rank leaves the number of its process, then waits for ever."""

import os
import sys
import threading
from pathlib import Path

place = Path(sys.argv[1]) / f"rank-{os.environ['RANK']}"
fresh = place.with_name(f".{place.name}")
fresh.write_text(str(os.getpid()))
fresh.rename(place)
threading.Event().wait()
