"""TURN, the two-stream universal referring localization network (Zhao et al., NeurIPS 2022), section 3.

symbol              here                 shape
V                   image                (B, 3, H, W)      ImageNet-normalised; `pad` (B, H, W) True on padding
T                   tokens               (B, L_t)          word indices
A                   logmel               (B, L_m, c)       log-mel spectrogram
v~_i                v                    (B, n_v, d)       object-aware embeddings
t-bar, a-bar        t, a                 (B, d)            aggregated and projected, before the codebooks
t-check, a-check    t_q, a_q             (B, d)            quantised: the query condition q
b-hat               box                  (B, 4)            cx, cy, w, h in [0, 1]
T~, A~              words, sound         (B, L_t, |vocabulary|), (B, L_m, c)
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from common.io import load_published

from .codebook import GroupedCodebook
from .backbones.detr import Detr, detr_r50, sine_positions
from .backbones.resnet import BasicBlock, ResNet
from .transformer import Transformer, masked_mean, sine


class Localization(nn.Module):
    """The localization stream, section 3.3: a picture and a query condition q → one box."""

    def __init__(self, c):
        super().__init__()
        self.d = d = c.dim
        if c.detr == "r50":
            self.detr = detr_r50()
            if c.detr_weights:
                load_published(self.detr, c.detr_weights, key="model")
            for part in (self.detr.transformer["decoder"], self.detr.query_embed, self.detr.class_embed, self.detr.bbox_embed):
                part.requires_grad_(False)  # the encoder is all that TURN uses
        else:  # the same classes, small enough to be trained from scratch on a laptop: stride 16
            backbone = ResNet(BasicBlock, (1, 1, 1, 1), c.backbone_width, num_classes=None, last_stride=1)
            self.detr = Detr(backbone, d, c.heads, c.detr_layers, 0, c.ffn * d, 0.0)
            for layer in self.detr.transformer["encoder"].layers:  # from scratch, post-norm layers begin best as nothing
                nn.init.zeros_(layer.self_attn.out_proj.weight)
                nn.init.zeros_(layer.linear2.weight)
        self.project = nn.Sequential(nn.Linear(self.detr.d, d), nn.ReLU(), nn.Linear(d, d))
        self.transformer = Transformer(d, c.visual_heads, c.visual_layers, c.ffn, c.visual_dropout)
        self.head = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 4))

    def embed(self, image, pad=None):
        """image (B, 3, H, W), pad (B, H, W) → v~ (B, n_v, d), positions (B, n_v, d), mask (B, n_v) or None."""
        tokens, mask = self.detr.encode(image, pad)  # (B, n_v, ·), (B, h, w)
        # Boxes are fractions of the whole canvas, so positions count its padding too (DETR's own do not).
        positions = sine_positions(torch.zeros_like(mask), self.d).flatten(2).transpose(1, 2)  # (B, n_v, d)
        return self.project(tokens), F.normalize(positions, dim=-1), None if pad is None else mask.flatten(1)

    def locate(self, v, positions, mask, q):
        """v~ (B, n_v, d) and q (B, d) → box (B, 4): Eqs. (1), (2). Positions have the norm of the tokens, 1."""
        v = F.normalize(v * q[:, None], dim=-1)  # v-hat of Eq. (1)
        v = masked_mean(self.transformer(v + positions, mask), mask)  # Eq. (1)
        return self.head(v).float().sigmoid()  # Eq. (2)

    def forward(self, image, q, pad=None):
        return self.locate(*self.embed(image, pad), q)


class Alignment(nn.Module):
    """The alignment stream, section 3.4: texts and sounds → the same codes, and back."""

    def __init__(self, c, tokenizer):
        super().__init__()
        d, vocabulary = c.dim, len(tokenizer)
        sizes = d, c.heads
        self.pad, self.mask = tokenizer.pad, tokenizer.mask
        self.words = nn.Embedding(vocabulary, d)
        self.text_encoder = Transformer(*sizes, c.text_layers, c.ffn, c.dropout)
        self.compress = nn.Sequential(nn.Conv1d(c.n_mels, d, 3, 2, 1), nn.GELU(), nn.Conv1d(d, d, 3, 2, 1))
        self.audio_encoder = Transformer(*sizes, c.audio_layers, c.ffn, c.dropout)
        self.project = nn.Linear(d, d)  # shared; what comes out has the same mean and variance in both modalities
        self.text_norm, self.audio_norm = nn.BatchNorm1d(d), nn.BatchNorm1d(d)
        for norm in (self.text_norm, self.audio_norm):  # the condition multiplies the tokens (Eq. 1): begin near "let through"
            nn.init.ones_(norm.bias)
        self.codebook = GroupedCodebook(c.groups, c.codes // c.groups, d, c.decay, c.beta, revive=c.revive)
        self.text_decoder = Transformer(*sizes, c.decoder_layers, c.ffn, c.dropout, cross=True)
        self.to_words = nn.Linear(d, vocabulary)
        self.mask_frame = nn.Parameter(torch.zeros(c.n_mels))
        self.audio_decoder = Transformer(*sizes, c.decoder_layers, c.ffn, c.dropout, cross=True)
        self.expand = nn.Sequential(nn.ConvTranspose1d(d, d, 4, 2, 1), nn.GELU(), nn.ConvTranspose1d(d, c.n_mels, 4, 2, 1))

    def text(self, tokens):
        """(B, L_t) → the aggregated text t-bar (B, d), Eq. (3), projected."""
        x = masked_mean(self.text_encoder(self._embed(tokens), tokens == self.pad), tokens == self.pad)  # Eq. (3)
        return self.text_norm(self.project(x))

    def audio(self, logmel):
        """(B, L_m, c) → the aggregated sound a-bar (B, d), Eq. (3), projected."""
        return self.audio_norm(self.project(self.audio_encoder(self._compress(logmel)).mean(1)))  # Eq. (3)

    def quantise(self, *parts):
        """Vectors (B_i, d) of one or more kinds → each of them as codes, Eq. (4), the codebooks' loss, Eq. (8), and info.

        All go through the codebooks in one call: there is one shared space, and one update a step.
        """
        x, loss, info = self.codebook(torch.cat(parts))
        return x.split([len(p) for p in parts]), loss, info

    def _embed(self, tokens):
        x = self.words(tokens)
        return x + sine(x.shape[1], x.shape[2], x.device).to(x.dtype)

    def _compress(self, logmel):
        x = (logmel + 4) / 4  # log-mels of sounds lie between -16 and 6
        x = self.compress(x.transpose(1, 2)).transpose(1, 2)  # (B, L_a, d), L_a = L_m / 4
        return x + sine(x.shape[1], x.shape[2], x.device).to(x.dtype)

    def reconstruct_text(self, tokens, masked, q):
        """Ω_t of Eq. (5): tokens (B, L_t) of which `masked` (B, L_t) are hidden, guided by q (B, d) → words (B, L_t, V)."""
        x = self._embed(tokens.masked_fill(masked, self.mask))
        return self.to_words(self.text_decoder(x, tokens == self.pad, q[:, None]))

    def reconstruct_audio(self, logmel, masked, q):
        """Ω_a of Eq. (5): logmel (B, L_m, c) of which the frames `masked` (B, L_m) are hidden → sound (B, L_m, c)."""
        x = torch.where(masked[..., None], self.mask_frame.to(logmel.dtype), logmel)
        x = self.audio_decoder(self._compress(x), memory=q[:, None])
        return 4 * self.expand(x.transpose(1, 2)).transpose(1, 2)[:, :logmel.shape[1]] - 4


class Output(NamedTuple):
    """What the losses need of a training step."""
    box: torch.Tensor  # (B_s, 4)
    t: torch.Tensor  # (B_m, d) projected, before the codebooks, as is `a`
    a: torch.Tensor  # (B_m, d)
    code_loss: torch.Tensor
    info: dict  # of the codebooks
    words_s: torch.Tensor | None  # (B_s, L_t, V)
    words_m: torch.Tensor | None  # (B_m, L_t, V)
    sound: torch.Tensor | None  # (B_m, L_m, c)


class Turn(nn.Module):
    def __init__(self, config, tokenizer):
        super().__init__()
        self.localization, self.alignment = Localization(config), Alignment(config, tokenizer)
        self.recon_source, self.recon_intermediate = config.recon_source, config.recon_intermediate
        if not config.lambda_recon:
            self.recon_source = self.recon_intermediate = "no"

    def forward(self, batch: dict) -> Output:
        """One step of both domains: image, pad, tokens_s, hidden_s; logmel, tokens_m, hidden_m, hidden_a (see turn.data)."""
        align = self.alignment
        t = align.text(torch.cat([batch["tokens_s"], batch["tokens_m"]]))  # one encoder for both domains
        t_s, t_m = t.split([len(batch["tokens_s"]), len(batch["tokens_m"])])
        a_m = align.audio(batch["logmel"])
        (t_s_q, t_m_q, a_m_q), code_loss, info = align.quantise(t_s, t_m, a_m)
        box = self.localization(batch["image"], t_s_q, batch["pad"])
        words_s = words_m = sound = None
        if self.recon_source == "self":
            words_s = align.reconstruct_text(batch["tokens_s"], batch["hidden_s"], t_s_q)
        if self.recon_intermediate != "no":  # cross: text from audio, audio from text
            for_text, for_audio = (a_m_q, t_m_q) if self.recon_intermediate == "cross" else (t_m_q, a_m_q)
            words_m = align.reconstruct_text(batch["tokens_m"], batch["hidden_m"], for_text)
            sound = align.reconstruct_audio(batch["logmel"], batch["hidden_a"], for_audio)
        return Output(box, t_m, a_m, code_loss, info, words_s, words_m, sound)

    def query(self, tokens=None, logmel=None):
        """The query condition q (B, d) of texts or of sounds (inference, end of 3.5)."""
        x = self.alignment.text(tokens) if logmel is None else self.alignment.audio(logmel)
        return self.alignment.quantise(x)[0][0]

    def random_query(self, n: int, generator: torch.Generator):
        """A random unit-variance vector in the query's place (TURN w/o Query, Tables 1 and 2): (n, d)."""
        book = self.alignment.codebook.codes
        return torch.randn(n, self.alignment.project.out_features, generator=generator).to(book.device)
