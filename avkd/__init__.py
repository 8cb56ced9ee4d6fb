"""Acoustic and Visual Knowledge Distillation for audio-visual localization (ICMI 2023)."""
