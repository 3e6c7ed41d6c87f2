"""A web page that classifies an image with a released network and draws its attention masks over the image.

    pip install -e '.[tensorflow,demo]'
    python examples/11_demo_page.py

The page needs no network access. It sends nothing to other servers, unless `--share` opens a public link.
"""

import argparse
import functools
import html
import os
import re
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import numpy as np
from matplotlib import colormaps

from keras_resattn import decode_predictions, iter_layers, preprocess_input
from keras_resattn.data.images import SUFFIXES, load_image
from keras_resattn.evaluation import load_checkpoint
from keras_resattn.layers import AttentionHead, AttentionResidual
from keras_resattn.pretrained import find, tags
from keras_resattn.visualize import attention_relevance, upsample_maps
from keras_resattn.visualize.attention import find_attention

FOLDERS = [Path(__file__).parent / name for name in ("photos", "images")]
SAMPLES = [str(path) for folder in FOLDERS for path in sorted(folder.glob("*")) if path.suffix in SUFFIXES]
STAGES = "last module of each stage"
MEAN, ENERGY, RELEVANCE = "mean over channels", "channels with the most energy", "channels that support the prediction"
TOP_CLASSES, TOP_CHANNELS = 5, 3
SHOWN = 320, 800  # smallest and largest height of images on the page, in pixels
HOUR = 3600
ABOUT = """
# Where does the network look?

The network sees the central square of the image. Its attention modules multiply features by 1 + M, where M is a mask
from 0 to 1. Bright colours mark positions with high values of M. They are no proof that the prediction depends on them.
"""


CSS = """
#image img { width: 100%; height: 100%; object-fit: contain; }
#masks .grid-wrap { max-height: none; min-height: 0; }
#masks .caption-label { right: 0; bottom: 0; max-width: 100%; white-space: normal; }
@media (max-width: 640px) { #masks .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", help="address to listen on, 0.0.0.0 for all (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="also open a public link, through Gradio's servers")
    args = parser.parse_args()
    build_page().launch(
        server_name=args.host,
        server_port=args.port,
        share=args.share,
        allowed_paths=SAMPLES,
        css=CSS,
        footer_links=[],
        max_file_size="50mb",
        run_history=False,
        ssr_mode=False,
    )


def build_page():
    """Return the page, a `gradio.Blocks`."""
    import gradio as gr

    def show(path, name, mask, channels, progress=gr.Progress()):  # noqa: B008 (Gradio looks for it here)
        if path is None:
            return None, None, gr.skip(), gr.Markdown(visible=False)
        try:
            predictions, images, masks = analyse(path, name, mask, channels, progress)
        except (ValueError, OSError) as error:
            text = f"**No result.** {html.escape(str(error))}"
            return None, None, gr.skip(), gr.Markdown(text, visible=True)
        choices = [STAGES, *((readable(each), each) for each in masks)]
        chosen = gr.Dropdown(choices, value=mask if mask in masks else STAGES)
        return predictions, images, chosen, gr.Markdown(visible=False)

    with gr.Blocks(title="keras_resattn", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                sources = ["upload", "webcam", "clipboard"]
                first = next(iter(SAMPLES), None)
                image = gr.Image(first, label="Image", type="filepath", sources=sources, height=320, elem_id="image")
                # Gradio would open the file first, and show a damaged one as an error of the program.
                image.preprocess = lambda payload: payload and payload.path
                message = gr.Markdown(visible=False, elem_id="message")
                samples = gr.Dataset(
                    components=[image], samples=[[path] for path in SAMPLES], samples_per_page=20, label="Samples"
                )
                network = gr.Dropdown([tag.id for tag in tags()], value=default_network(), label="Network and weights")
                mask = gr.Dropdown([STAGES], value=STAGES, label="Attention module")
                channels = gr.Radio([MEAN, ENERGY, RELEVANCE], value=ENERGY, label="Channels of the mask")
            with gr.Column(scale=3, min_width=320):
                predictions = gr.Label(num_top_classes=TOP_CLASSES, label="Predictions", elem_id="predictions")
                images = gr.Gallery(label="Attention masks", columns=3, height="auto", elem_id="masks")
        samples.click(lambda sample: sample[0], samples, image, show_progress="hidden", api_visibility="private")
        gr.on(
            [page.load, image.change, network.input, mask.input, channels.input],
            show,
            [image, network, mask, channels],
            [predictions, images, mask, message],
            show_progress_on=[predictions, images],
            trigger_mode="always_last",
            api_visibility="private",
        )
    return page


def default_network():
    """Return the id of the released checkpoint with the largest images among those whose tensors are installed."""
    return max(tags(), key=lambda tag: (tag.tensors.exists(), tag.input_shape, "default" in tag.aliases)).id


@functools.lru_cache(maxsize=4)
def open_network(name):
    """Return the released checkpoint `network/tag` and its model; the last four are kept."""
    [checkpoint] = find(name)
    return checkpoint, load_checkpoint(checkpoint)


def analyse(path, name, mask=STAGES, channels=ENERGY, report=lambda fraction, text: None):
    """Classify an image file and draw attention masks over it.

    Args:
        path: The image file.
        name: Id of a released checkpoint, `network/tag`.
        mask: Name of a mask, or `STAGES`. A mask that the network does not have counts as `STAGES`.
        channels: `MEAN`, `ENERGY` or `RELEVANCE`.
        report: Called as `report(fraction, text)` before each step.

    Returns:
        `{class name: probability}` of the most probable classes, `[(image, caption)]`, and the names of all masks. A
        network without attention has no masks and images.

    Raises:
        ValueError: If the file is not an image that can be decoded.
        OSError: If the weights have to be downloaded, and that fails.
    """
    report(0.1, f"Loading {name}")
    checkpoint, model = open_network(name)
    pixels, shown = read_upload(path, checkpoint.input_shape[:2])
    x = preprocess_input(pixels[None], weights=checkpoint.id)
    report(0.4, "Predicting (the first image of a network takes longer)")
    [best] = decode_predictions(model.predict(x, verbose=0), TOP_CLASSES, class_names=checkpoint.classes)
    report(0.7, "Computing attention masks (the first image takes longer)")
    modules = attention_modules(model, x)
    maps = chosen_maps(model, x, modules, mask, channels) if modules else []
    return {label: probability for _, label, probability in best}, overlays(shown, maps), list(modules)


def read_upload(path, size):
    """Return the central square of an image file as network input and, in higher resolution, for the page."""
    name = Path(path).name
    pixels, whole = load_image(path, name, size), load_image(path, name)
    side = int(np.clip(min(whole.shape[:2]), *SHOWN))
    return pixels, load_image(whole, name, (side, side))


def attention_modules(model, x):
    """Return `{mask name: [trunk, mask]}` for one image, with arrays `(h, w, c)`.

    Modules of gated attention have no trunk. A network without attention has no modules.
    """
    if not any(isinstance(layer, (AttentionHead, AttentionResidual)) for layer in iter_layers(model)):
        return {}
    found = find_attention(model)
    arrays = found.predict("page", found.modules, x)
    return {name: [array[0] for array in module] for name, module in arrays.items()}


def chosen_maps(model, x, modules, mask, channels):
    """Return `[(label, map)]` for the choices of a visitor, as in `analyse`."""
    last = {re.sub("_attention.*", "", name): name for name in modules}  # gated attention has no stages: all modules
    names = [mask] if mask in modules else list(last.values())
    if channels == MEAN:
        return [(f"{readable(name)}, mean", modules[name][-1].mean(-1)) for name in names]
    if channels == ENERGY:  # of the trunk; gated attention has none
        scores = {name: np.square(module[0]).mean((0, 1)) for name, module in modules.items()}
    else:
        scores = {name: array[0].sum((0, 1)) for name, array in attention_relevance(model, x).items()}
    best = [(name, channel) for name in names for channel in np.argsort(-scores[name], kind="stable")[:TOP_CHANNELS]]
    # The library counts heads from 1, and channels from 0.
    part, first = ("head", 1) if len(modules[names[0]]) == 1 else ("channel", 0)
    return [(f"{readable(name)}, {part} {first + channel}", modules[name][-1][..., channel]) for name, channel in best]


def readable(name):
    """Return the name of a mask for visitors."""
    name = re.sub(r"^attention(\d+)_mask", r"module \1", name)  # gated attention
    return re.sub(r"stage(\d+)_attention(\d+)_mask", r"stage \1, module \2", name)


def overlays(image, maps):
    """Draw maps over a grey copy of an image, with one colour scale for all, from 0 to the highest value."""
    highest = max((values.max() for _, values in maps), default=0) or 1
    grey = image.mean(-1, keepdims=True)
    drawn = []
    for label, values in maps:
        colours = 255 * colormaps["inferno"](upsample_maps(values, image.shape[:2]) / highest)[..., :3]
        limits = f"{values.min():.2f} to {values.max():.2f}"
        drawn.append(((0.4 * grey + 0.6 * colours).astype("uint8"), f"{label}: {limits}"))
    return drawn


if __name__ == "__main__":
    main()
