"""Files in and out: audio, images, drawings, text, published checkpoints, and atomic writes.

Whatever is read is bounded before memory is allocated for it, and anything wrong with it is an
`InputError` that names the file. What is written appears whole or not at all (`atomic`).
"""
from .audio import read_audio, write_audio
from .checkpoint import load_published, read_checkpoint, read_state, write_checkpoint
from .drawing import contact_sheet, overlay
from .files import InputError, atomic, decoding, inside, keep_inputs, limited_memory, read_bytes
from .image import numbered_images, read_image, write_image
from .resample import crop_audio, fit, resample
from .text import append_jsonl, read_csv, read_json, read_lines, write_json
