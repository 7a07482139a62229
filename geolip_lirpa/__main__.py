"""``python -m geolip_lirpa``: the command line, see `geolip_lirpa.cli`."""

import sys

from geolip_lirpa.cli import main

if __name__ == "__main__":
    sys.exit(main())
