"""Trained models in files: arrays by name, and compiled programs."""
