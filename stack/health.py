"""`python -m stack.health URL` succeeds if the URL responds with 200; for health checks."""

import sys
from urllib.request import urlopen

if __name__ == "__main__":
    urlopen(sys.argv[1], timeout=5)  # noqa: S310  a URL from the compose file
