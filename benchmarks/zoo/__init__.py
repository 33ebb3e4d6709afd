"""Every architecture that a user is likely to bring: what is removable, exact, and how fast."""
