"""Run the command `keras-resattn` as `python -m keras_resattn`."""

import sys

from keras_resattn.cli import main

sys.exit(main())
