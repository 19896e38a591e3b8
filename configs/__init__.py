"""What a job is: the YAML files, their schema, and the command grammar all packages share."""

import time

STARTED_S = time.monotonic()  # when this process began, nearly: what it imports later counts
