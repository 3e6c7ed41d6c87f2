"""Presets: recipes of the papers' protocols and of the released checkpoints."""

from keras_resattn.recipes.recipe import Recipe
from keras_resattn.utils.suggestions import did_you_mean


def get_recipe(recipe: str | Recipe) -> Recipe:
    """Return the preset with a given name; a `Recipe` is returned unchanged.

    Raises:
        ValueError: If there is no preset with that name; the message lists all presets.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str) or recipe not in RECIPES:
        known = ", ".join(map(repr, RECIPES))
        received = (
            f"{recipe!r}.{did_you_mean(recipe, RECIPES)}" if isinstance(recipe, str) else f"a {type(recipe).__name__}."
        )
        raise ValueError(f"Expected a Recipe or one of {known}; received: recipe={received}")
    return RECIPES[recipe]


def _layer(name, **config):
    """Return an augmentation layer in the form of `keras.layers.serialize`, without importing Keras."""
    return {"module": "keras.layers", "class_name": name, "config": config}


_cifar_one_cycle = Recipe(
    name="cifar_one_cycle",
    source="Smith & Topin, 'Super-Convergence' (2018), with the augmentation of Wang et al. (CVPR 2017, Sec. 4.1)",
    deviations=("One cycle instead of 160k iterations, with a larger batch size and matching weight decay.",),
    epochs=14,
    batch_size=128,
    learning_rate=0.2,
    warmup_epochs=3,
    l2=5e-4,
)

_resattn_cifar = Recipe(
    name="resattn_cifar",
    source="Wang et al., 'Residual Attention Network for Image Classification' (CVPR 2017), Sec. 4.1",
    deviations=(
        "The learning rate is divided by 10 at 64k and 96k of 160k iterations; the authors released no CIFAR code.",
        "The paper does not say whether weight decay includes batch normalisation; here it does not.",
        "Each epoch drops its incomplete batch, so 160k iterations are 204.9 epochs instead of 204.8.",
    ),
    epochs=None,
    iterations=160_000,
    batch_size=64,
    learning_rate=0.1,
    l2=1e-4,
    schedule="steps",
    milestones=(0.4, 0.6),
    normalization="pixel_mean",
)

_resattn_cifar_modern = Recipe(
    name="resattn_cifar_modern",
    source=(
        "Methods that took re-implementations past Wang et al., such as PistonY's (97.14 % with a network six times "
        "the size): mixup, cutout, cosine with warm-up, no decay of batch normalisation, 220 epochs, batch size 256"
    ),
    deviations=("Common strengths of mixup and cutout, not tuned.",),
    epochs=220,
    batch_size=256,
    learning_rate=0.2,
    warmup_epochs=5,
    l2=1e-4,
    cutout=16,
    mixup=0.2,
)

_resattn_imagenet = Recipe(
    name="resattn_imagenet",
    source=(
        "Wang et al. (CVPR 2017), Sec. 4.2: training on crops of 224 pixels; they report single crops of 224 and 320 "
        "pixels (299 for AttentionInception)"
    ),
    deviations=(
        "The paper gives no batch size and weight decay (its page asks for 32 images per GPU): 256 and 1e-4 here.",
        "The paper uses AlexNet's colour augmentation, along the principal components of RGB; this recipe jitters "
        "brightness, contrast and saturation.",
        "The last learning rate holds from 500k to 530k iterations, as in the paper's text.",
    ),
    epochs=None,
    iterations=530_000,
    batch_size=256,
    learning_rate=0.1,
    l2=1e-4,
    schedule="steps",
    milestones=(200 / 530, 400 / 530, 500 / 530),
    crop="inception",
    pad=0,
    normalization="imagenet",
    augment=(
        _layer(
            "RandomColorJitter",
            value_range=(0, 255),
            brightness_factor=0.4,
            contrast_factor=0.4,
            saturation_factor=0.4,
        ),
    ),
)

_tiny_imagenet = Recipe(
    name="tiny_imagenet",
    source=(
        "A short schedule for Tiny-ImageNet (100,000 images of 64 pixels, 200 classes) on a CPU: one cosine with "
        "warm-up; progressive image sizes, as in Howard's DAWNBench entry (2018); label smoothing (Szegedy et al., "
        "2016); averaged weights (Izmailov et al., 2018)"
    ),
    deviations=(
        "Crops cover at least 35 % of the image instead of 8 %, because short schedules underfit.",
        "Intended for networks whose residual branches start at zero (`zero_init_residual`).",
    ),
    epochs=6,
    batch_size=128,
    learning_rate=0.1,
    warmup_epochs=0.5,
    l2=1e-4,
    crop="inception",
    crop_area=(0.35, 1.0),
    pad=0,
    label_smoothing=0.1,
    ema=0.999,
    image_sizes=((0, 48), (2 / 3, 64)),
)

_columbia_adam = Recipe(
    name="columbia_adam",
    source="Li, Zhang and Wang's re-implementation at Columbia University (2019), its training script for CIFAR-10",
    deviations=(
        "The number of epochs is an argument of the script; 100 here.",
        "The 5.28 % of their report is not a test error: the training set included the validation images. "
        "Their own test logs say 24 % (Attention-56) and 35 % (Attention-92).",
        "Their networks end with dropout of 0.4 and an L2 penalty on the last layer only; their units differ.",
        "Points outside the image take the nearest pixel, as in the script; the script draws its zoom for each axis.",
    ),
    epochs=100,
    batch_size=256,
    optimizer="adam",
    learning_rate=1e-4,
    schedule="steps",
    pad=0,
    augment=(
        _layer("RandomRotation", factor=20 / 360, fill_mode="nearest"),
        _layer("RandomTranslation", height_factor=0.2, width_factor=0.2, fill_mode="nearest"),
        _layer("RandomZoom", height_factor=0.2, fill_mode="nearest"),
    ),
)

_warn_cifar = Recipe(
    name="warn_cifar",
    source="Rodriguez et al., 'Attend and Rectify' (ECCV 2018), following the authors' code and logs",
    deviations=(
        "Statistics are measured; the code uses the same rounded constants for CIFAR-10 and CIFAR-100.",
        "The authors' logs of plain Wide ResNets were made without Nesterov momentum, those of WARN with it.",
    ),
    epochs=200,
    batch_size=128,
    learning_rate=0.1,
    l2=5e-4,
    decay_norm_and_bias=True,
    schedule="steps",
    milestones=(0.3, 0.6, 0.8),
    lr_decay_factor=0.2,
    pad_mode="reflect",
)

_warn_cifar_dropout = _warn_cifar.replace(
    name="warn_cifar_dropout",
    source="Rodriguez et al. (ECCV 2018), their log of WARN-40-10 with dropout 0.3: 3.33 % at the last epoch",
    dropout=0.3,
)

_warn_finetune = Recipe(
    name="warn_finetune",
    source="Rodriguez et al. (ECCV 2018), Sec. 4.3, following the authors' fine-tuning code",
    deviations=(
        "The paper states a batch size of 64 and learning rates of 1e-3 for the base and 1e-2 for the modules, divided "
        "by 10 every 30 epochs; this recipe uses the code's batch size of 128 and milestones (40 and 80 of 100 epochs) "
        "with the paper's two learning rates.",
        "The code crops 224 pixels from images resized to 256; here images are resized to the network's input size and "
        "cropped after padding by 16 reflected pixels on each side.",
    ),
    epochs=100,
    batch_size=128,
    learning_rate=1e-2,
    l2=1e-4,
    decay_norm_and_bias=True,
    schedule="steps",
    milestones=(0.4, 0.8),
    pad=16,
    pad_mode="reflect",
    normalization="imagenet",
    lr_multipliers={"attention|global_gate|classifier|predictions": 1.0, "": 0.1},
)

_cluttered_mnist = Recipe(
    name="cluttered_mnist",
    source="Rodriguez et al. (ECCV 2018), Sec. 4.1, following the authors' script",
    deviations=(
        "The script trains for 100 epochs, the paper says 200; both divide the learning rate by 10 after 60 % of them.",
        "As in the script: no Nesterov momentum, and a hundredth of the learning rate for the spatial transformer.",
    ),
    epochs=100,
    batch_size=100,
    learning_rate=0.1,
    l2=1e-5,
    decay_norm_and_bias=True,
    nesterov=False,
    schedule="steps",
    milestones=(0.6,),
    pad=0,
    flip=False,
    normalization="unit",
    lr_multipliers={"transformer_": 0.01},
)

_transfer_head = Recipe(
    name="transfer_head",
    source=(
        "A linear classifier on standardised features, as in He et al., 'Masked Autoencoders Are Scalable Vision "
        "Learners' (CVPR 2022), App. A.1; Adam instead of LARS, and no augmentation, so that features are computed once"
    ),
    epochs=30,
    batch_size=32,
    learning_rate=3e-3,
    optimizer="adam",
    pad=0,
    flip=False,
    l2=1e-3,
)

_transfer_fine_tune = Recipe(
    name="transfer_fine_tune",
    source=(
        "The last stage and the trained classifier, as in Keras' guide 'Transfer learning & fine-tuning': Adam at a "
        "low learning rate, batch normalisation in inference mode; crops and flips as for CIFAR"
    ),
    epochs=10,
    batch_size=32,
    learning_rate=3e-4,
    warmup_epochs=0.5,
    optimizer="adam",
    l2=1e-4,
)

#: All presets by name.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        _cifar_one_cycle,
        _resattn_cifar,
        _resattn_cifar_modern,
        _resattn_imagenet,
        _tiny_imagenet,
        _columbia_adam,
        _warn_cifar,
        _warn_cifar_dropout,
        _warn_finetune,
        _cluttered_mnist,
        _transfer_head,
        _transfer_fine_tune,
    )
}
