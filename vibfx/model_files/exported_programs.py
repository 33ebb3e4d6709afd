"""Programs of ``torch.export``: refused."""

from vibfx.errors import ModelFileError
from vibfx.model_files.archive import Archive
from vibfx.model_files.trust import Trust


def read_program(archive: Archive, trust: Trust) -> object:
    """Refuses it."""
    del archive, trust
    raise ModelFileError(
        "The file is a program of torch.export; vibfx reads eager modules here.",
        hint="Save the module it was exported from with torch.save(model, path).",
    )
