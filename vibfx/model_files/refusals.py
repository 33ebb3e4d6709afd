"""Sentences that several of the checks on a model file share."""

import pickle

from vibfx.errors import ModelFileError

SAVE_WHOLE = "Save the whole module with torch.save(model, path)."
OTHER_VERSION = "Load it with the version that saved it, or build the model again with this one."


def damaged(reason: str, writer: str = "torch.save") -> ModelFileError:
    """Says that a file is not what ``torch.save``, or another writer, writes.

    Args:
        reason: What is wrong with it, as the end of a sentence.
        writer: What writes such files.

    Returns:
        The error to raise.
    """
    return ModelFileError(
        f"The model file is damaged or was not written by {writer}: {reason}.",
        hint="Copy the file again, or save the model again.",
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


def unreadable_pickle() -> ModelFileError:
    """Says that a file is a pickle from which nothing can be read safely."""
    return ModelFileError(
        "The file is a plain pickle or from before torch 1.6, and cannot be read safely.",
        hint=f"Load it where it was made and save it again there. {SAVE_WHOLE}",
    )
