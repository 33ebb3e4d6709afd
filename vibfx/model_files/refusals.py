"""Sentences that several of the checks on a model file share."""

import pickle

from vibfx.errors import ModelFileError

SAVE_WHOLE = "Save the whole module with torch.save(model, path)."
OTHER_VERSION = "Load it with the version that saved it, or build the model again with this one."


def damaged(reason: str) -> ModelFileError:
    """Says that a file is not what ``torch.save`` writes.

    Args:
        reason: What is wrong with it, as the end of a sentence.

    Returns:
        The error to raise.
    """
    return ModelFileError(
        f"The model file is damaged or was not written by torch.save: {reason}.",
        hint=f"Copy the file again. {SAVE_WHOLE}",
    )


def damaged_graph(reason: str) -> ModelFileError:
    """Says that the files of a saved graph are not what vibfx writes.

    Args:
        reason: What is wrong with them, as the end of a sentence.

    Returns:
        The error to raise.
    """
    return ModelFileError(
        f"The saved graph is damaged: {reason}.", hint="Copy it again, or compress the model again."
    )


def described(error: Exception) -> str:
    """Puts another library's error into a few words.

    Args:
        error: The error that was caught.

    Returns:
        Its type and the first line of its message.
    """
    # torch wraps its unpickler's reason in advice on how to switch the protection off.
    is_wrapped = isinstance(error, pickle.UnpicklingError) and error.__context__
    lines = str(error.__context__ if is_wrapped else error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]]).rstrip(".")
