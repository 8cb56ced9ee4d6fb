"""TURN: zero-resource sounding object localization with two streams (Zhao et al., NeurIPS 2022)."""
