"""`python -m sketchguide`: the command line, where its script is not on the path."""

import sys

from sketchguide.cli import main

sys.exit(main())
