"""``python -m kernelproto.server``."""

import sys

from kernelproto.server.serve import main

if __name__ == "__main__":
    sys.exit(main())
