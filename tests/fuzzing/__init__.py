"""Random networks with random units shut, and the oracle over them. ``python -m fuzzing`` runs long."""
