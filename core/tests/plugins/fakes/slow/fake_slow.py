"""Does its work at import."""

import time

time.sleep(600)
