import sys

from sketchguide.cli import main

sys.exit(main())
