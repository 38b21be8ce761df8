"""A server as a job sees one: answers health checks, says which it is, dies or falls silent."""

import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.path == "/hang":
            self.server.is_silent = True
        if self.server.is_silent:
            threading.Event().wait()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.uname().nodename} {os.getpid()}".encode())

    def log_message(self, *arguments):
        """Say nothing."""


base, port = Path(sys.argv[1]), int(sys.argv[2])
if (base / "never-ready").exists():
    raise SystemExit(3)
server = ThreadingHTTPServer(("", port), Answers)
server.is_silent = False
sys.stdout.write(f"serving at {port}\n")
sys.stdout.flush()
server.serve_forever()
