"""`keras-resattn download`: copy released weights to a folder, for machines without network access."""

import argparse

from keras_resattn import pretrained
from keras_resattn.cli.arguments import path
from keras_resattn.models import registry
from keras_resattn.pretrained.hub import PREFIX
from keras_resattn.pretrained.shared_folders import VARIABLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `download` to an `argparse` parser."""
    parser.add_argument("weights", metavar="TAG", help="network, tag or network/tag (see `list`), or hf://owner/repo")
    parser.add_argument(
        "--to", type=path, required=True, metavar="DIR", help="folder that gets one subfolder for the weights"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    weights = arguments.weights
    folder = pretrained.download(
        weights if weights.startswith(PREFIX) else registry.find_checkpoint(weights), arguments.to
    )
    print(f"{folder}: complete, SHA-256 verified.")
    print(f"To use it without network access, set {VARIABLE}={folder.parent.absolute()}")
