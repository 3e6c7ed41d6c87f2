"""The named recipes: the papers' protocols, and what this package's own weights were trained by."""

from keras_resattn.recipes.recipe import Recipe
from keras_resattn.utils.suggestions import did_you_mean


def get_recipe(recipe: str | Recipe) -> Recipe:
    """Returns `recipe` itself, or the named one.

    Raises:
        ValueError: if there is none of that name; the message lists those that there are.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        hint = did_you_mean(recipe, RECIPES)
        known = ", ".join(map(repr, RECIPES))
        raise ValueError(f"Expected a Recipe or one of {known}; received: recipe={recipe!r}.{hint}")
    return RECIPES[recipe]


def _layer(name, **config):
    """An augmentation layer as `keras.layers.serialize` writes it; making one would import TensorFlow where it is."""
    return {"module": "keras.layers", "class_name": name, "config": config}


_cifar_one_cycle = Recipe(
    name="cifar_one_cycle",
    source="Smith & Topin, 'Super-Convergence' (2018), on data and augmentation of Wang et al. (CVPR 2017, Sec. 4.1)",
    deviations=("One cycle in place of 160k iterations, with a larger batch, and decay to match.",),
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
        "The rate is divided by 10 at 64k and 96k of 160k iterations; the authors released no training code for CIFAR.",
        "The paper does not say whether batch normalisation decays; here it does not.",
        "The remainder of each pass is left out of it, so that 160k iterations are 204.9 passes and not 204.8.",
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
        "What took re-implementations past Wang et al.: PistonY's (97.14 % with a network six times the size): mixup, "
        "cutout, cosine with warm-up, no decay of batch normalisation, 220 epochs of batches of 256"
    ),
    deviations=("Strengths are common ones, not tuned.",),
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
        "Wang et al. (CVPR 2017), Sec. 4.2: crops of 224 for training; they report one crop of 224, and of 320 "
        "(299 for AttentionInception)"
    ),
    deviations=(
        "Neither batch size nor weight decay is given (their page asks for 32 images a GPU): 256 and 1e-4 here.",
        "Their colour augmentation is AlexNet's, along the principal components of RGB; here brightness, contrast and "
        "saturation are jittered.",
        "The last rate holds from 500k to 530k iterations, as in their text.",
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
        "warm-up; image sizes that grow, as in Howard's entry to DAWNBench (2018); label smoothing of Szegedy et al. "
        "(2016); averaged weights of Izmailov et al. (2018)"
    ),
    deviations=(
        "Crops take at least 35 % of the image, not 8 %: short schedules underfit.",
        "Meant for networks that start with zero residual branches (`zero_init_residual`).",
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
        "Epochs are an argument of the script; 100 here.",
        "The 5.28 % of their report is no test error: the validation images were among the training images. "
        "Their own test lines say 24 % (Attention-56) and 35 % (Attention-92).",
        "Their networks end in dropout of 0.4 and an L2 penalty on the last layer alone, and their units differ.",
        "What leaves the image is filled by the nearest pixel, as there; its zoom is drawn for each axis there.",
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
    source="Rodriguez et al., 'Attend and Rectify' (ECCV 2018), as the authors' code and logs have it",
    deviations=(
        "Data statistics are measured, not the code's rounded constants, which it uses for CIFAR-100, too.",
        "The authors' logs of the plain Wide ResNets were made without Nesterov's momentum, those of WARN with it.",
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
    source="Rodriguez et al. (ECCV 2018), Sec. 4.3, as the authors' fine-tuning code has it",
    deviations=(
        "The paper says batches of 64 and a rate divided by 10 every 30 epochs, 1e-3 for the base and 1e-2 for the "
        "modules; the code's batches of 128 and 40 and 80 of 100 epochs are taken, with the paper's two rates.",
        "Images are resized to 256 there before a crop of 224 is drawn; here to the network's size, and the crop is "
        "drawn from them and 16 reflected pixels on each side.",
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
    source="Rodriguez et al. (ECCV 2018), Sec. 4.1, as the authors' script has it",
    deviations=(
        "The script trains for 100 epochs, the paper says 200; the rate is divided by 10 after 60 % in both.",
        "No Nesterov, and a hundredth of the rate for the spatial transformer, as in the script.",
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
        "A linear classifier on standardised features, as He et al., 'Masked Autoencoders Are Scalable Vision "
        "Learners' (CVPR 2022), App. A.1; Adam in place of LARS, and no augmentation, so that the features "
        "are computed once"
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
        "The last stage with the trained classifier, in the manner of Keras' guide 'Transfer learning & "
        "fine-tuning': Adam at a low rate, batch normalisation in inference mode. Crops and mirror images as "
        "for CIFAR"
    ),
    epochs=10,
    batch_size=32,
    learning_rate=3e-4,
    warmup_epochs=0.5,
    optimizer="adam",
    l2=1e-4,
)

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
