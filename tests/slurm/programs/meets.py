"""Rank 0 listens at the job's port until every rank has said which job it belongs to."""

import os
import socket
import sys
import time
from pathlib import Path

job, others = os.environ["SLURM_JOB_ID"], int(os.environ["WORLD_SIZE"]) - 1
address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if os.environ["RANK"] == "0":
    heard = []
    with socket.create_server(("", address[1])) as server:
        for _ in range(others):
            connection, _ = server.accept()
            with connection:
                heard.append(connection.recv(64).decode())
    (Path(sys.argv[1]) / "heard").write_text("\n".join(heard))
else:
    for _ in range(300):
        try:
            with socket.create_connection(address) as connection:
                connection.sendall(job.encode())
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
