"""A plan applied to the user's own module: the same class, narrower."""

from vibfx.applying.surgery import Applied, applied, apply

__all__ = ["Applied", "applied", "apply"]
