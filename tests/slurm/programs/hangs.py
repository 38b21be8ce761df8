"""Every rank waits for ever, in functions that the stacks can name."""

import os
import threading


def waits_for_a_neighbour_that_never_comes():
    threading.Event().wait()


def is_the_neighbour():
    threading.Event().wait()


(is_the_neighbour if os.environ["RANK"] == "1" else waits_for_a_neighbour_that_never_comes)()
