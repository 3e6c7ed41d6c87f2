r"""Write golden_logits.json: logits of the bundled CIFAR-10 network for the sample images.

KERAS_BACKEND=tensorflow python tests/make_golden_logits.py

Run it once for each release; the tests compare every backend with it.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

import keras_resattn

HERE = Path(__file__).parent


def main():
    images = sorted((HERE.parent / "examples" / "images").glob("*.png"))
    x = np.stack([np.asarray(Image.open(path)) for path in images])
    model = keras_resattn.CifarResidualAttention56(classifier_activation=None)
    logits = model.predict(keras_resattn.preprocess_input(x, weights="cifar10"))
    golden = {"images": [path.name for path in images], "logits": logits.astype("float64").round(6).tolist()}
    (HERE / "golden_logits.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
