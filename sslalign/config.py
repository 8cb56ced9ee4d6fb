"""sslalign's configuration: `tiny`, the embedded default, and `paper`, section 4.1.3."""
from dataclasses import dataclass, replace

from common.training import RunConfig, flag

FREE = {"free_on_resume": True}


@dataclass(frozen=True)
class Config(RunConfig):
    data: str = flag("scenes", "image–audio pairs, without labels",
                     ("scenes", "vggsound", "flickr-soundnet"))
    ids: str = flag("", "file with the ids to train on, as vggss_144k.txt (none: all)", **FREE)
    exclude_test: str = flag("", "benchmark, as vggss, whose test samples are left out of them")
    epochs: int = flag(3, "passes over the pairs (4.1.3)")
    easy: int = flag(5, "passes before them over easy scenes: a large object, half the side", low=0)
    batch_size: int = flag(32, "pairs a step, over all processes (not in the paper)", low=2)
    lr: float = flag(5e-3, "learning rate of Adam (4.1.3)")
    schedule: str = flag("cosine", "of lr, with half an epoch of warm-up", ("constant", "cosine"))

    # Inputs (4.1.3)
    scenes: int = flag(9000, "training pairs of scenes")
    link: bool = flag(False, "scenes in which hue goes with pitch, and light with noise")
    lone: float = flag(0.25, "share of training scenes of one object; the others have a silent one")
    held_out: int = flag(500, "pairs for validation; samples of each test set of scenes", low=2)
    image_size: int = flag(64, "side of the image in pixels")
    sample_rate: int = flag(8000, "audio samples a second", low=1000)
    channel: str = flag("mean", "of stereo audio: the mean of both, or left", ("mean", "left"))
    seconds: float = flag(1.5, "length to which audio is repeated or cut")
    crop: float = flag(1.0, "seconds in its middle that the model takes")
    shift: float = flag(0.25, "how far a_aug takes them from there at most (not in the paper)")
    window: int = flag(128, "samples in a frame of the spectrogram", low=16)
    hop: int = flag(256, "samples from frame to frame")
    crop_scale: float = flag(0.6, "smallest share of the image in v_aug (SimCLR: 0.08)")
    jitter: float = flag(0.4, "strength of the colour distortion in v_aug (SimCLR: 1)")

    # Model (3.2, 4.1.3)
    blocks: tuple[int, ...] = flag((1, 1, 1), "blocks a stage, both ResNets (18: 2 2 2 2)", high=99)
    width: int = flag(16, "channels of their first stage, doubled at each further one")
    last_stride: int = flag(1, "stride of the visual ResNet's last stage (released: 1)", (1, 2))
    audio_stride: int = flag(2, "stride of the audio ResNet's last stage (released: 1)", (1, 2))
    vision_weights: str = flag("", "published ResNet-18 to begin the visual encoder with", **FREE)
    projection: int = flag(128, "d, width of the projections p_v and p_a, Eq. (4)")

    # Positives (3.3, Tables VIII to XI)
    view_image: bool = flag(True, "v_aug, hand-crafted positives of images")
    view_audio: bool = flag(True, "a_aug, hand-crafted positives of audio")
    semantic_image: bool = flag(True, "v_conc, semantically similar positives of images")
    semantic_audio: bool = flag(True, "a_conc, semantically similar positives of audio")
    neighbours: str = flag("encoders", "folder of `python -m sslalign.neighbors`, or encoders: of "
                           "scenes, by two small classifiers")
    k: int = flag(63, "nearest neighbours to draw from (Table X; the same share of the pairs)")
    encoder_steps: int = flag(200, "steps in which either small classifier is trained")
    semantic_from: int = flag(7, "passes without semantic positives, easy ones counted", low=0)
    sampling: str = flag("random", "which of the k nearest, or the anchor itself (Table XI)",
                         ("random", "nearest", "anchor"))

    # Losses (3.4)
    tau: float = flag(0.07, "temperature τ of Eqs. (1), (2), (5)")
    align: bool = flag(True, "the term with s_A of Eq. (5) (Table VIII)")
    intra: bool = flag(False, "L_intra between positives of one modality (Table XII)")
    symmetric: bool = flag(False, "also contrast each audio clip with all images (3.1)")

    benchmark: tuple[str, ...] = flag((), "test sets at the end, as vggss is3 (none: scenes)")
    benchmark_root: tuple[str, ...] = flag((), "the folder of each", **FREE)
    validate_every: int = flag(1, "epochs between validations; the last epoch always has one")

    def rules(self) -> dict:
        """Messages → whether the settings are as they say. See `checked`."""
        is_resnet18 = self.width == 64 and self.blocks == (2, 2, 2, 2)
        is_crop_valid = self.crop <= self.seconds and self.window <= self.crop * self.sample_rate
        return {
            "--link is of the built-in objects, not of --objects": not (self.link and self.objects),
            "--neighbours encoders are of scenes: name a folder that sslalign.neighbors made":
                self.data == "scenes" or self.neighbours != "encoders" or self.sampling == "anchor"
                or not (self.semantic_image or self.semantic_audio),
            "--tau must be positive, --crop-scale in (0, 1]":
                self.tau > 0 and 0 < self.crop_scale <= 1,
            f"--crop {self.crop:g} must be at most --seconds {self.seconds:g} and hold one "
            f"--window {self.window}": is_crop_valid,
            f"--image-size {self.image_size} is not a multiple of 16 from 32 up":
                self.image_size % 16 == 0 and self.image_size >= 32,
            "--benchmark goes with --benchmark-root, one for each":
                len(self.benchmark) == len(self.benchmark_root),
            "--blocks are two to four numbers": 2 <= len(self.blocks) <= 4,
            "--vision-weights are of a ResNet-18: --blocks 2 2 2 2 --width 64":
                is_resnet18 or not self.vision_weights}


TINY = Config()
PAPER = replace(
    TINY, preset="paper", data="vggsound", epochs=50, easy=0, batch_size=128, lr=1e-4,
    schedule="constant", image_size=224, sample_rate=16000, channel="left", seconds=10.0, crop=3.0,
    shift=1.0, window=512, hop=159, crop_scale=0.08, jitter=1.0, blocks=(2, 2, 2, 2), width=64,
    audio_stride=1, projection=512, neighbours="neighbours", semantic_from=0, k=1000, workers=8)
PRESETS = {"tiny": TINY, "paper": PAPER}
