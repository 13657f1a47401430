"""The parts of examples/oxford_pets_experiment.py."""
