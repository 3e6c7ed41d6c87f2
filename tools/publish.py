r"""Publish a released checkpoint: upload its folder to a Hub repository, verify the upload, and record the commit.

    python -m tools.publish CifarResidualAttention56/cifar10_v2 --repo owner/name --dry-run
    python -m tools.publish CifarResidualAttention56/cifar10_v2 --repo owner/name

The repository becomes exactly the folder of the tag, in one commit. Log in first (`hf auth login`, or `HF_TOKEN` with a
token that may write). Safe to repeat: a complete upload is only verified and recorded.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_resattn import evaluation
from keras_resattn.models.registry import find_checkpoint
from keras_resattn.pretrained import records
from keras_resattn.pretrained.records import CARD, METADATA, RECORD, TENSORS, Checkpoint
from keras_resattn.utils.io import read_json, sha256
from tools.cards import model_card
from tools.release_files import ATTENTION, LOG

REQUIRED = {CARD, RECORD, METADATA, TENSORS, LOG, evaluation.PREDICTIONS}
HUB_FILES = {".gitattributes"}  # created by the Hub
REPEAT = "Repeat the command; a complete upload is recognised."


def publish(tag: Checkpoint, repository: str, *, dry_run: bool = False) -> str | None:
    """Upload the folder of a released checkpoint to a Hub repository, verify it, and record the commit.

    Args:
        tag: The checkpoint, one of `keras_resattn.pretrained.tags()`.
        repository: `owner/name` of the repository, which is created if it does not exist.
        dry_run: Check everything and print what would be uploaded, but upload and record nothing.

    Returns:
        The commit whose content is the folder, or `None` after a dry run.

    Raises:
        ValueError: before anything is uploaded, if there is no token, the name of the repository is invalid, a file of
            the folder is missing, unexpected, damaged or outdated, or the repository holds anything but this tag.
        OSError: if the Hub cannot be reached or refuses a request, or the upload differs from the folder. Nothing is
            recorded then.
    """
    from huggingface_hub import HfApi, get_token

    _check_repository(tag, repository)
    if get_token() is None and not dry_run:
        raise ValueError("Expected a token for the Hub; received: none. Log in with `hf auth login`, or set HF_TOKEN.")
    files = check_folder(tag)
    for name in sorted(files):
        print(f"  {name}  {(tag.folder / name).stat().st_size:,} bytes")
    api = HfApi(library_name="keras-resattn")
    with _hub_errors(f"read {repository}", "Nothing was uploaded."):
        if not dry_run:
            api.whoami()
        head, published = _remote_state(api, repository)
    complete = published == files
    if not complete:
        _check_remote(tag, repository, published, files)
    check_predictions(tag)
    if dry_run:
        print(f"Dry run: {repository} {'holds these files already' if complete else 'would receive these files'}.")
        return None
    if complete:
        revision = str(head)
    else:
        with _hub_errors(f"upload {tag.id} to {repository}", REPEAT):
            revision = _upload(api, tag, repository, sorted(files), head)
        with _hub_errors(f"verify {repository}@{revision}", REPEAT):
            _, published = _remote_state(api, repository, revision)
        if published != files:
            different = sorted({name for name, _ in published.items() ^ files.items()})
            raise OSError(f"Expected {repository}@{revision} to hold the uploaded files; {different} differ. {REPEAT}")
    records.pin_repository(tag.folder.parent, tag, repository, revision)
    print(f"Published and verified: hf://{repository}@{revision}")
    return revision


def _check_repository(tag, repository):
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"Expected --repo owner/name; received: {repository}. {error}") from error
    if "/" not in repository:
        raise ValueError(f"Expected --repo owner/name; received: {repository}, without an owner.")
    if tag.repository not in (None, repository):
        raise ValueError(
            f"Expected the repository that {tag.id} is published in, {tag.repository}; received: {repository}. Delete "
            f"its entry in {records.REPOSITORIES} first if it should move."
        )


def check_folder(tag: Checkpoint) -> dict[str, str]:
    """Check the folder of a released checkpoint without building the network.

    Returns:
        `{file name: SHA-256}` of its files.

    Raises:
        ValueError: if a file is missing, unexpected, or differs from `SHA256SUMS` or the record.
    """
    record = read_json(tag.folder / RECORD, "Release the run again.")
    if "card" not in record:
        raise ValueError(f"Expected {tag.folder / RECORD} to hold the sentences of a card; it is from an old version.")
    expected = REQUIRED | ({ATTENTION} if record["card"]["attention"] else set())
    paths = list(tag.folder.iterdir())
    names = {path.name for path in paths}
    if names != expected:
        missing, foreign = (sorted(each) for each in (expected - names, names - expected))
        raise ValueError(
            f"Expected only the files of the release in {tag.folder}; missing: {', '.join(missing) or 'none'}; "
            f"unexpected: {', '.join(foreign) or 'none'}. Restore or delete them."
        )
    files = {path.name: sha256(path) for path in paths}
    sums = records.read_sums(tag.folder.parent)
    for name, value in files.items():
        wanted = tag.sha256 if name == TENSORS else sums.get(f"{tag.folder.name}/{name}")
        if value != wanted:
            raise ValueError(f"Expected {tag.folder / name} to have SHA-256 {wanted}; it has {value}.")
    if (tag.folder / CARD).read_text(encoding="utf-8") != model_card(record):
        raise ValueError(f"Expected the card of {tag.id} to match its record. Run: python -m tools.cards {tag.folder}")
    return files


def check_predictions(tag: Checkpoint) -> None:
    """Check that the stored predictions match the record, and that our loader and Keras' load the same network.

    Raises:
        ValueError: if they do not.
    """
    import keras

    labels, predictions = np.load(tag.folder / evaluation.PREDICTIONS)
    correct, total = int((labels == predictions).sum()), len(labels)
    expected = tag.metrics["test_correct"], tag.metrics["test_images"]
    if (correct, total) != expected:
        raise ValueError(
            f"Expected {expected[0]} of {expected[1]} correct predictions of {tag.id}; "
            f"{evaluation.PREDICTIONS} has {correct} of {total}."
        )
    ours, saved = evaluation.load_checkpoint(tag), keras.saving.load_model(tag.folder)
    images = np.random.default_rng(0).normal(size=(2, *tag.input_shape)).astype("float32")
    images = np.moveaxis(images, -1, 1) if keras.config.image_data_format() == "channels_first" else images
    if not np.allclose(ours.predict(images, verbose=0), saved.predict(images, verbose=0), atol=1e-5):
        raise ValueError(f"Expected keras.saving.load_model to open {tag.folder} with the same weights; it does not.")


def _remote_state(api, repository, revision=None):
    """Return the commit of a repository and `{file name: SHA-256}` at that commit; `(None, {})` if there is none."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        commit = api.model_info(repository, revision=revision).sha
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        api.snapshot_download(repository, revision=commit, local_dir=folder)
        paths = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != ".cache"]
        names = {path.relative_to(folder).as_posix(): path for path in paths}
        return commit, {name: sha256(path) for name, path in names.items() if name not in HUB_FILES}


def _check_remote(tag, repository, published, files):
    """Raise a `ValueError` unless a repository is empty or holds this tag, perhaps with another card."""
    if not published:
        return
    foreign = sorted(published.keys() - files.keys())
    if foreign or published.get(TENSORS) != files[TENSORS]:
        raise ValueError(
            f"Expected {repository} to be new, empty, or to hold {tag.id}; it holds "
            f"{'other files: ' + ', '.join(foreign) if foreign else 'other weights, and released tags are immutable'}. "
            "Pass another repository."
        )


def _upload(api, tag, repository, names, head):
    """Upload files in one commit; return the commit. Unlike `upload_folder`, `create_commit` never splits it."""
    from huggingface_hub import CommitOperationAdd

    api.create_repo(repository, exist_ok=True)
    operations = [CommitOperationAdd(name, str(tag.folder / name)) for name in names]
    message = f"Release {tag.id}"
    return api.create_commit(repository, operations, commit_message=message, parent_commit=head).oid


@contextlib.contextmanager
def _hub_errors(action: str, remedy: str) -> Iterator[None]:
    """Turn errors of the Hub's client, which are of many types, into an `OSError`."""
    try:
        yield
    except Exception as error:
        reason: Any = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise OSError(f"Expected to {action}; it failed: {reason}. {remedy}") from error


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tag", help="released checkpoint, such as CifarResidualAttention56/cifar10_v2")
    parser.add_argument("--repo", required=True, help="owner/name of the Hub repository")
    parser.add_argument("--dry-run", action="store_true", help="check everything, but upload and record nothing")
    arguments = parser.parse_args()
    try:
        publish(find_checkpoint(arguments.tag), arguments.repo, dry_run=arguments.dry_run)
    except (ValueError, OSError) as error:
        sys.exit(f"publish: {error}")


if __name__ == "__main__":
    main()
