"""On PYTHONPATH, Python imports this first: a clock of its own for every process, hours off."""

import os
import time

_usual, _usual_ns = time.time, time.time_ns
_OFF_S = (os.getpid() % 7 - 3) * 3600

time.time = lambda: _usual() + _OFF_S
time.time_ns = lambda: _usual_ns() + _OFF_S * 10**9
