"""`python -m keras_resattn` is the command `keras-resattn`."""

import sys

from keras_resattn.cli import main

sys.exit(main())
