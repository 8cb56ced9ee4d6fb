"""The embedded data: images, videos, audio, phrases, boxes and masks, made from a seed and an index."""
from .composition import Caption, Grounding, Sample, Scene, Scenes, Video

__all__ = ["Caption", "Grounding", "Sample", "Scene", "Scenes", "Video"]
