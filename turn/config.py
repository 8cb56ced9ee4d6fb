"""TURN's settings: `tiny` is for the embedded scenes, `paper` is section 4.1 and appendix A.2."""
from dataclasses import dataclass, replace

from common.training import RunConfig, flag


@dataclass(frozen=True)
class Config(RunConfig):
    data: str = flag("scenes", "scenes, or refcoco|refcoco+|refcocog '+' clotho|audiocaps")
    epochs: int = flag(5, "passes over the source domain (A.2.3)")
    batch_size: int = flag(64, "b_s, source samples a step (A.2.3)", low=2)
    batch_intermediate: int = flag(32, "b_m, intermediate ones; 0: in proportion (A.2.3)", low=0)
    lr: float = flag(1.5e-3, "maximal learning rate (A.2.3)")
    weight_decay: float = flag(1e-4, "weight decay of AdamW (A.2.3)")
    warmup_epochs: float = flag(0.5, "epochs of linear warm-up before the cosine (A.2.3)")
    clip: float = flag(1.0, "maximal norm of the gradient, not in the paper; 0: no limit")
    visual_lr_scale: float = flag(0.1, "learning rate of the DETR in parts of --lr; 0: frozen")
    # Inputs (A.2.1)
    scenes: int = flag(8000, "images of the source domain, if --data is scenes")
    sounds: int = flag(4000, "captioned clips of the intermediate domain, if --data is scenes")
    held_out: int = flag(500, "scenes in each evaluation, if --data is scenes")
    exclusive: float = flag(0.125, "share of the scenes' texts that belong to one domain alone")
    phrases: str = flag("refcocog", "kind of the scenes' phrases: long, short, or half of them "
                        "places instead of names (Table 3)", ("refcocog", "refcoco+", "refcoco"))
    clips: str = flag("clotho", "kind of the scenes' clips: clear with five captions, or noisy "
                      "with one (Table 3)", ("clotho", "audiocaps"))
    image_size: int = flag(96, "side of the image in pixels, H = W")
    augment: bool = flag(False, "random scale, crop and translation in training")
    flip: bool = flag(False, "mirror images too, and left and right in phrases (authors' code)")
    jitter: bool = flag(False, "change colours too (authors' code)")
    centre_crop: bool = flag(False, "test on the central square of images (authors' code)")
    sample_rate: int = flag(16000, "audio samples a second", low=1000)
    seconds: float = flag(1.0, "length of a clip")
    n_fft: int = flag(512, "frame size of the spectrogram", low=16)
    hop: int = flag(256, "hop of the spectrogram")
    n_mels: int = flag(64, "mel bands, c")
    filterbank_rate: int = flag(0, "of the mel bands (authors' code: 16000); 0: sample rate", low=0)
    time_mask: int = flag(16, "SpecAugment: time masks are shorter than this, in frames")
    freq_mask: int = flag(8, "SpecAugment: frequency masks are narrower than this, in bands")
    text_length: int = flag(12, "L_t, with [CLS] and [SEP]", low=3)
    vocabulary: str = flag("", "WordPiece file; none: the training's words", free_on_resume=True)
    refcoco_split: str = flag("", "unc, google or umd; none: google for refcocog, else unc")
    # Model (A.2.2)
    detr: str = flag("narrow", "narrow, trained here, or r50", ("narrow", "r50"))
    detr_weights: str = flag("", "published weights for --detr r50", free_on_resume=True)
    detr_steps: int = flag(600, "steps in which the narrow one first learns to detect (small.py)",
                           low=0)
    backbone_width: int = flag(16, "width of the narrow DETR's first stage")
    detr_layers: int = flag(1, "encoder layers of the narrow DETR; r50 has its 6", high=99)
    dim: int = flag(96, "d, the dimension of all representations", low=4)
    heads: int = flag(4, "attention heads of the text and audio transformers and the narrow DETR")
    text_layers: int = flag(2, "layers of the text encoder", high=99)
    audio_layers: int = flag(2, "layers of the audio encoder", high=99)
    decoder_layers: int = flag(1, "layers of the text and audio decoders", high=99)
    visual_layers: int = flag(2, "layers of the localization transformer", high=99)
    visual_heads: int = flag(4, "attention heads of the localization transformer")
    ffn: int = flag(4, "feed-forward width, in multiples of d")
    visual_dropout: float = flag(0.0, "dropout in the localization transformer")
    dropout: float = flag(0.0, "dropout in the text and audio transformers")
    groups: int = flag(2, "q, the number of codebooks (Figure 3)")
    codes: int = flag(64, "number of codes in all codebooks together (Figure 3)")
    decay: float = flag(0.97, "decay of the codebooks' moving averages")
    # Losses (A.2.3), with the switches of Table 4
    lambda_reg: float = flag(1.0, "λ_1, weight of the box regression, Eq. (6)")
    lambda_iou: float = flag(1.0, "λ_2, weight of the GIoU, Eq. (6)")
    lambda_code: float = flag(3.0, "λ_3, weight of the codebook loss, Eq. (10)")
    lambda_recon: float = flag(0.1, "λ_4, weight of the reconstruction, Eq. (10)")
    lambda_contra: float = flag(1.0, "λ_5, weight of the contrast, Eq. (10)")
    beta: float = flag(0.25, "β, weight of the commitment, Eq. (8)")
    tau: float = flag(0.1, "τ_c, temperature of the contrast, Eq. (7)")
    recon_source: str = flag("self", "reconstruction in the source domain, Eq. (5)", ("no", "self"))
    recon_intermediate: str = flag("cross", "in the intermediate one", ("no", "self", "cross"))
    mask_from: float = flag(0.5, "mask ratio in the first epoch (A.2.2)")
    mask_to: float = flag(1.0, "mask ratio in the last epoch (A.2.2)")
    # Adaptive sampling (3.6)
    adaptive: bool = flag(True, "draw items by adaptive sampling weights; no: uniformly (Table 4)")
    k: float = flag(5.0, "ratio of the largest to the smallest sampling weight, Eq. (13)")
    sampler_epochs: int = flag(2, "epochs of the domain classifier (A.2.3)")
    sampler_lr: float = flag(1e-3, "maximal learning rate of the domain classifier (A.2.3)")
    # Selection and evaluation
    select: str = flag("zero", "chooses best.pt: the domains, or Flickr", ("zero", "flickr"))
    dev_root: str = flag("", "folder of Flickr-SoundNet, for --select flickr", free_on_resume=True)
    dev_list: str = flag("", "other ids of it than flickr_test.csv", free_on_resume=True)
    benchmark: tuple[str, ...] = flag((), "to evaluate on at the end, as vggss music-solo")
    benchmark_root: tuple[str, ...] = flag((), "the folder of each", free_on_resume=True)
    list: tuple[str, ...] = flag((), "other ids of each ('': the published)", free_on_resume=True)
    validate_every: int = flag(2, "epochs between validations; the last is always validated")

    def rules(self) -> dict:
        """Messages → whether the settings are as they say. See `checked`."""
        multiples = {
            f"--{value} {getattr(self, value)} is not a multiple of --{by.replace('_', '-')} "
            f"{getattr(self, by)}": getattr(self, value) % getattr(self, by) == 0
            for value, by in (("dim", "heads"), ("dim", "visual_heads"), ("dim", "groups"),
                              ("codes", "groups"))}
        return multiples | {
            "--dropout, --visual-dropout, --decay must be below 1, --exclusive at most 1":
                max(self.dropout, self.visual_dropout, self.decay) < 1 and self.exclusive <= 1,
            "--batch-intermediate must be 0, or at least 2": self.batch_intermediate != 1,
            "--dim must be a multiple of 4 (sines of two axes)": self.dim % 4 == 0,
            "--image-size must be a multiple of 16 from 32 up":
                self.detr == "r50" or (self.image_size % 16 == 0 and self.image_size >= 32),
            "--tau must be positive, --k at least 1, 0 <= --mask-from <= --mask-to <= 1":
                self.tau > 0 and self.k >= 1 and 0 <= self.mask_from <= self.mask_to <= 1,
            "--seconds must be more than one frame of --n-fft":
                self.seconds * self.sample_rate > self.n_fft,
            "only scenes are square: add --augment": self.augment or self.data == "scenes",
            "--select flickr goes with --dev-root":
                (self.select == "flickr") == bool(self.dev_root),
            "--benchmark, --benchmark-root and --list go together, one of each a benchmark":
                len(self.benchmark) == len(self.benchmark_root)
                and len(self.list) in (0, len(self.benchmark))}


TINY = Config()
PAPER = replace(
    TINY, preset="paper", data="refcocog+clotho", epochs=30, batch_intermediate=0, lr=1e-4,
    weight_decay=1e-5, warmup_epochs=1.0, clip=0.0, image_size=384, augment=True, flip=True,
    jitter=True, sample_rate=22050, seconds=10.0, n_fft=2048, hop=1024, n_mels=128, time_mask=64,
    text_length=30, detr="r50", detr_layers=6, dim=256, heads=8, text_layers=6, audio_layers=6,
    decoder_layers=6, visual_layers=3, visual_dropout=0.3, dropout=0.1, codes=512, decay=0.99,
    lambda_code=1.0, lambda_contra=0.1, sampler_lr=1e-4, validate_every=1, workers=4,
    vocabulary="third_party/weights/vocab.txt",
    detr_weights="third_party/weights/detr-r50-e632da11.pth")
PRESETS = {"tiny": TINY, "paper": PAPER}
