"""Train a detector on a pretrained backbone: the RetinaNet of keras-hub or keras-cv finds shapes on photos.

    python examples/12_detection.py detections.png
    python examples/12_detection.py detections.png --library keras-cv --save detector.keras

Triangles, squares and circles are drawn on enlarged crops of the sample images of this repository, all from a seed. The
backbone starts from released weights. After training, the average precision at an IoU of 0.5 is measured on new images
with other photos in the background, and the detections in some of them are drawn. docs/how-to/detection.md explains the
two libraries and reports results.
"""

import argparse
import colorsys
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_resattn import ResidualAttention56, freeze_batch_norm, pyramid_backbone

#: Number of vertices of each shape, a regular polygon. The names are the classes.
SHAPES = {"triangle": 3, "square": 4, "circle": 60}
MOST_SHAPES = 4
COLORS = ("#ffd500", "#00e5ff", "#ff4fd8")
FOLDER = Path(__file__).parent / "images"
PHOTOS = {"train": ("airplane", "bird", "cat", "deer", "frog", "horse", "truck"), "test": ("automobile", "dog", "ship")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="PNG file for the detections in test images")
    parser.add_argument("--library", choices=DETECTORS, default="keras-hub", help="default: %(default)s")
    parser.add_argument("--weights", default="default", help="weights of ResidualAttention56 (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="image size, a multiple of 32 (default: %(default)s)")
    parser.add_argument("--images", type=int, default=1200, help="training images (default: %(default)s)")
    parser.add_argument("--test-images", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--save", type=Path, metavar="FILE", help=".keras file for the detector")
    args = parser.parse_args()
    if args.size < 32 or args.size % 32:
        parser.error(f"expected --size to be a multiple of 32, the coarsest stride; received: {args.size}")

    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    images, truth = made_up_images(rng, args.images, args.size, PHOTOS["train"])
    test_images, test_truth = made_up_images(rng, args.test_images, args.size, PHOTOS["test"])

    shape = (args.size, args.size, 3)
    network = ResidualAttention56(
        include_top=False, weights=args.weights, input_shape=shape, include_preprocessing=True
    )
    freeze_batch_norm(network)  # batches are too small to estimate its statistics
    detector, losses, labels = DETECTORS[args.library](pyramid_backbone(network), shape)
    steps = -(-args.images // args.batch_size) * args.epochs
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 10, warmup_target=args.learning_rate, warmup_steps=steps // 10
    )
    detector.compile(optimizer=keras.optimizers.Adam(schedule, global_clipnorm=1.0), **losses)

    started = time.monotonic()
    boxes, classes = padded(truth)
    fit = {"batch_size": args.batch_size, "epochs": args.epochs, "verbose": 2}
    detector.fit(images, {"boxes": boxes, labels: classes}, shuffle=False, **fit)  # keras-hub does not shuffle arrays
    seconds = time.monotonic() - started
    if args.save:
        detector.save(args.save)
    found = detect(detector, test_images, labels, args.batch_size)
    precisions, overlap = evaluate(found, test_truth)
    print(f"{args.library} on {keras.backend.backend()}: {steps} steps in {seconds:.0f} s")
    print(", ".join(f"{name} {value:.3f}" for name, value in zip(SHAPES, precisions, strict=True)), end="; ")
    print(f"AP at IoU 0.5: {np.nanmean(precisions):.3f}; mean IoU of the matched boxes: {overlap:.3f}")
    draw(test_images[:10], found, test_truth, scale=max(1, 256 // args.size)).save(args.output)


# --- Images ------------------------------------------------------------------------------------------------


def made_up_images(rng, count, size, photos):
    """Return images, (count, size, size, 3) uint8, and `(boxes, labels)` of each: xyxy in pixels, indices in SHAPES."""
    photos = [Image.open(path) for photo in photos for path in sorted(FOLDER.glob(f"{photo}-*.png"))]
    scenes = [draw_scene(rng, background(rng, size, photos)) for _ in range(count)]
    return np.stack([image for image, _, _ in scenes]), [(boxes, labels) for _, boxes, labels in scenes]


def background(rng, size, photos):
    """Enlarge a random crop of a random photo to `size` pixels, mirrored or not, and add noise."""
    photo = photos[rng.integers(len(photos))].convert("RGB")
    side = rng.uniform(0.4, 1) * photo.width
    x, y = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
    crop = np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC, (x, y, x + side, y + side)), "float32")
    crop = crop[:, :: rng.choice([-1, 1])] + rng.normal(0, 8, crop.shape)
    return np.clip(crop, 0, 255).astype("uint8")


def draw_scene(rng, image):
    """Draw up to MOST_SHAPES shapes on an image, with little overlap; return the image, boxes and labels."""
    size = len(image)
    boxes, labels = [], []
    for _ in range(rng.integers(1, MOST_SHAPES + 1)):
        label = rng.integers(len(SHAPES))
        vertices = list(SHAPES.values())[label]
        radius = rng.uniform(0.12, 0.28) * size
        angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(vertices) / vertices
        points = rng.uniform(radius, size - radius, 2) + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        box = np.concatenate([points.min(0), points.max(0)])
        if not boxes or iou(box[None], np.array(boxes)).max() < 0.1:
            image = fill(image, points, color(rng, image, box))
            boxes.append(box)
            labels.append(label)
    return image, np.array(boxes, "float32"), np.array(labels)


def color(rng, image, box):
    """Return a random saturated color that differs from the mean color inside a box."""
    left, top, right, bottom = box.astype(int)
    behind = image[top : bottom + 1, left : right + 1].mean((0, 1))
    while True:
        candidate = 255 * np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.4, 1), rng.uniform(0.3, 1)))
        if np.linalg.norm(candidate - behind) > 100:
            return candidate


def fill(image, points, color):
    """Return an image with a filled polygon, with smooth edges."""
    size, smooth = len(image), 4
    mask = Image.new("L", (size * smooth, size * smooth))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in points * smooth], fill=255)
    alpha = np.asarray(mask.resize((size, size), Image.Resampling.BOX), "float32")[..., None] / 255
    return ((1 - alpha) * image + alpha * color).round().astype("uint8")


def padded(truth):
    """Return boxes, (n, MOST_SHAPES, 4), and labels, (n, MOST_SHAPES), of all images; -1 where there is no shape."""
    boxes, labels = np.full((len(truth), MOST_SHAPES, 4), -1, "float32"), np.full((len(truth), MOST_SHAPES), -1.0)
    for i, (own, classes) in enumerate(truth):
        boxes[i, : len(own)], labels[i, : len(own)] = own, classes
    return boxes, labels.astype("float32")


# --- Detectors: each function returns a model, its losses, and its key for class indices --------------------


def keras_hub_detector(backbone, shape):
    import keras_hub

    pyramid = keras_hub.models.RetinaNetBackbone(backbone, min_level=3, max_level=5, use_p5=False, image_shape=shape)
    anchors = keras_hub.layers.AnchorGenerator("xyxy", 3, 5, num_scales=3, aspect_ratios=[0.5, 1.0, 2.0], anchor_size=2)
    detector = keras_hub.models.RetinaNetObjectDetector(
        pyramid,
        num_classes=len(SHAPES),
        bounding_box_format="xyxy",
        anchor_generator=anchors,
        use_prediction_head_norm=True,  # the heads start from large random weights
        prediction_decoder=keras_hub.layers.NonMaxSuppression(
            "xyxy", True, confidence_threshold=0.05, max_detections=20
        ),
    )
    # RetinaNet starts from a low score for every class. keras-hub 0.32 gives that bias to the boxes instead.
    detector.classification_head.prediction_layer.bias.assign(detector.classification_head.prediction_layer.bias - 4.6)
    detector.box_head.prediction_layer.bias.assign(0 * detector.box_head.prediction_layer.bias)
    # keras-hub does not scale box offsets, so errors are small, and squares of them smaller.
    return detector, {"box_loss": keras.losses.MeanAbsoluteError(reduction="sum")}, "labels"


def keras_cv_detector(backbone, shape):
    import keras_cv

    anchors = keras_cv.layers.AnchorGenerator(
        "xyxy",
        sizes=[16.0, 32.0, 64.0, 128.0, 256.0],
        scales=[2 ** (i / 3) for i in range(3)],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128],
        clip_boxes=True,
    )
    detector = keras_cv.models.RetinaNet(
        backbone=backbone,
        num_classes=len(SHAPES),
        bounding_box_format="xyxy",
        anchor_generator=anchors,
        prediction_decoder=keras_cv.layers.NonMaxSuppression(
            "xyxy", True, confidence_threshold=0.05, max_detections=20
        ),
    )
    return detector, {"box_loss": "smoothl1", "classification_loss": "focal", "jit_compile": False}, "classes"


DETECTORS = {"keras-hub": keras_hub_detector, "keras-cv": keras_cv_detector}


def detect(detector, images, labels, batch_size=8):
    """Return `(boxes, labels, scores)` of the detections in each image."""
    # On TensorFlow, keras-hub 0.32 fails if a batch is of another size than the first, such as a smaller last one.
    whole = np.concatenate([images, np.repeat(images[-1:], -len(images) % batch_size, axis=0)])
    found = detector.predict(whole, batch_size=batch_size, verbose=0)
    rows = list(zip(found["boxes"], found[labels], found["confidence"], strict=True))[: len(images)]
    return [(boxes[indices >= 0], indices[indices >= 0], scores[indices >= 0]) for boxes, indices, scores in rows]


# --- Evaluation ----------------------------------------------------------------------------------------------


def iou(boxes, others):
    """Return the intersection over union of each of `boxes`, (n, 4), with each of `others`, (m, 4): (n, m)."""
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    shared = np.prod(np.clip(sides, 0, None), axis=-1)
    areas, other_areas = (np.prod(each[:, 2:] - each[:, :2], axis=-1) for each in (boxes, others))
    return shared / (areas[:, None] + other_areas - shared)


def evaluate(found, truth, threshold=0.5):
    """Return the average precision of each class, and the mean IoU of the detections that match a shape.

    Detections of all images are ranked by their score. Each matches the remaining shape of its class in its image with
    the largest IoU, if that is at least `threshold`. The precision at a recall is the largest at that recall or a
    higher one, and its mean over all recalls is the average precision (as in PASCAL VOC since 2010).
    """
    precisions, matched = [], []
    for label in range(len(SHAPES)):
        remaining = [list(boxes[labels == label]) for boxes, labels in truth]
        total = sum(map(len, remaining))
        ranked = sorted(
            (-score, image, tuple(box))
            for image, detections in enumerate(found)
            for box, index, score in zip(*detections, strict=True)
            if index == label
        )
        hits = []
        for _, image, box in ranked:
            overlaps = iou(np.array([box]), np.array(remaining[image]).reshape(-1, 4))[0]
            hits.append(len(overlaps) > 0 and overlaps.max() >= threshold)
            if hits[-1]:
                matched.append(overlaps.max())
                del remaining[image][int(overlaps.argmax())]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        precisions.append(float(best[np.array(hits, bool)].sum() / total) if total else float("nan"))
    return precisions, float(np.mean(matched)) if matched else 0.0


def draw(images, found, truth, scale, threshold=0.5, columns=5):
    """Return a grid of images: detections above a score in the color of their class, shapes in white."""
    side = images.shape[1] * scale
    sheet = Image.new("RGB", (columns * side, -(-len(images) // columns) * side))
    font = ImageFont.load_default(13)
    for i, image in enumerate(images):
        tile = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(tile)
        for box in truth[i][0]:
            pen.rectangle([scale * float(x) for x in box], outline="white")
        for box, label, score in zip(*found[i], strict=True):
            if score >= threshold:
                left, top, right, bottom = (scale * float(x) for x in box)
                pen.rectangle([left, top, right, bottom], outline=COLORS[label], width=3)
                text = f"{list(SHAPES)[label]} {score:.2f}"
                corner = (max(left, 0), max(top - 16, 0))
                pen.rectangle(pen.textbbox(corner, text, font), fill="black")
                pen.text(corner, text, COLORS[label], font)
        sheet.paste(tile, (i % columns * side, i // columns * side))
    return sheet


if __name__ == "__main__":
    main()
