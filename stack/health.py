"""`python -m stack.health URL` succeeds where it answers 200: what health checks run."""

import sys
from urllib.request import urlopen

if __name__ == "__main__":
    urlopen(sys.argv[1], timeout=5)  # noqa: S310  the compose file's own
