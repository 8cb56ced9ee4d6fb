"""The embedded data: images, videos, audio and text, made from a seed and an index."""
from .composition import ENCODER_AUDIO, ENCODER_IMAGES, VIDEO_SCALE, Scenes
from .videos import QUIET
