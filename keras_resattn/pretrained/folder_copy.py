"""Copy released checkpoints into a folder for `KERAS_RESATTN_WEIGHTS` (`keras-resattn download`)."""

import os
import shutil
import uuid
from pathlib import Path

from keras_resattn.pretrained import hub
from keras_resattn.pretrained.records import RECORD, TENSORS, Checkpoint, find, tags
from keras_resattn.pretrained.resolution import WeightsSource, source_of
from keras_resattn.typing import PathLike
from keras_resattn.utils.io import sha256, user_path


def download(weights: str | Checkpoint, to: PathLike) -> Path:
    """Copy the folder of a checkpoint into another folder, downloading what is not on this machine.

    With `KERAS_RESATTN_WEIGHTS` set to that folder, the checkpoint is then available by its name, without network
    access. A copy that exists is verified and left as it is.

        pretrained.download("CifarResidualAttention56/cifar10_v2", "/shared/weights")

    Args:
        weights: A released `Checkpoint`, its name (see `find`), or `"hf://owner/repo[@revision]"`.
        to: The folder that gets a subfolder for the checkpoint. Created if it does not exist.

    Returns:
        The path of the subfolder.

    Raises:
        ValueError: if the name is unknown or ambiguous, the subfolder exists with other content, or files are damaged.
        OSError: if the download fails, or the folder cannot be written. The subfolder then does not exist.
    """
    tag, source, name = _source(weights)
    to = user_path(to)
    target = to / name
    if os.path.lexists(target):
        return _checked(target, tag)
    files = _files(tag, source)
    with source.open() as (_, tensors):
        partial = to / f".partial-{uuid.uuid4().hex}"
        try:
            partial.mkdir(parents=True)
            _write(partial, files, tensors)
            os.rename(partial, target)
        except OSError as error:
            if os.path.lexists(target):  # another process was faster
                return _checked(target, tag)
            message = (
                f"{target} could not be written ({error}); it does not exist. Fix the problem, then repeat the call."
            )
            raise OSError(message) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return _checked(target, tag)


def _source(weights):
    """Return the record of a checkpoint, its `WeightsSource`, and the name of its folder."""
    if isinstance(weights, str) and weights.startswith(hub.PREFIX):
        tag, address = hub.read_record(hub.Address.parse(weights))
        source = WeightsSource(tag.network, weights, tag=tag, address=address)
        return tag, source, address.repository.partition("/")[2]
    found = find(weights) if isinstance(weights, str) else [weights] if isinstance(weights, Checkpoint) else []
    if len(found) != 1:
        known = ", ".join(tag.id for tag in found or tags()) or "none"
        hint = " Several networks have this tag." if found else ""
        raise ValueError(f"Expected one released checkpoint ({known}) or hf://owner/repo; received: {weights!r}.{hint}")
    [tag] = found
    return tag, source_of(tag), tag.folder.name


def _files(tag, source):
    """Return `{name: path}` of the files beside the tensors."""
    if source.address is not None and source.weights.startswith(hub.PREFIX):
        names = {RECORD, *hub.list_files(source.address)} - {TENSORS}
        return {name: hub.fetch_intact(source.address, name) for name in sorted(names)}
    folders = [tag.folder] if source.path is None else [source.path.parent, tag.folder]
    return {
        path.name: path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != TENSORS and not path.name.startswith(".")
    }


def _write(folder, files, tensors):
    for name, path in files.items():
        if name != RECORD:
            shutil.copyfile(path, folder / name)
    tensors.seek(0)
    with open(folder / TENSORS, "wb") as file:
        shutil.copyfileobj(tensors, file)
        file.flush()
        os.fsync(file.fileno())
    shutil.copyfile(files[RECORD], folder / RECORD)


def _checked(folder, tag):
    """Return a folder that holds a checkpoint; raise if it holds anything else."""
    try:
        found = Checkpoint.read(folder)
        same = (found.id, found.sha256) == (tag.id, tag.sha256) and sha256(found.tensors) == tag.sha256
        reason = "it holds another checkpoint, or a damaged one"
    except ValueError as error:
        same, reason = False, str(error).rstrip(".")
    if not same:
        raise ValueError(
            f"Expected {folder} to be missing, or to hold {tag.id} with SHA-256 {tag.sha256}; {reason}. It was not "
            "changed: move it away, or choose another folder."
        )
    return folder
