"""``python -m vibfx``."""

from vibfx.cli import main

main()
