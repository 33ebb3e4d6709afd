"""Random networks, random units shut, and the oracle over them: ``python -m fuzzing``."""
