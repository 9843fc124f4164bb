"""Searches the settings of a training run that matter, over KerasTuner and cached activations."""
