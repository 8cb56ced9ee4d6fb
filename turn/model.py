"""TURN, the Two-stream Universal Referring localization Network: section 3 of the paper.

Zhao et al., "Towards Effective Multi-Modal Interchanges in Zero-Resource Sounding Object
Localization", NeurIPS 2022, https://openreview.net/forum?id=rQAJmrLmGC6
Authors' code: https://github.com/AwalkZY/TURN, commit 3640ef9 (not used here).

symbol        here          shape
V             image         (B, 3, H, W)     normalised as for ImageNet; its padding (B, H, W)
T             tokens        (B, L_t)         word indices
A             logmel        (B, L_m, c)      log-mel spectrogram
ṽ_i           v             (B, n_v, d)      object-aware embeddings
t̄, ā          t, a          (B, d)           aggregated and projected, before the codebooks
ť, ǎ          t_q, a_q      (B, d)           quantised: the query condition q
b̂             box           (B, 4)           cx, cy, w, h in [0, 1]
T̃ˢ, T̃ᵐ        words_s, _m   (B, L_t, |V|)    reconstructed text, as logits
Ãᵐ            audio         (B, L_m, c)      reconstructed log-mel spectrogram
Θ_v, Θ_t, Θ_a transformer, text_encoder, audio_encoder
Ω_t, Ω_a, Ψ   text_decoder, audio_decoder, codebook

B samples of a batch, d and c channels; suffixes _s and _m are the source and the intermediate
domain. `padding` is True on padding, a `mask` True on what a decoder has to reconstruct.

>>> from turn.config import TINY
>>> from turn.backbones.tokenizer import WordPiece
>>> tokenizer = WordPiece.from_texts(["a red ring", "a bell rings"])
>>> model = Turn(TINY, tokenizer).eval()
>>> q = model.query(tokens=tokenizer.encode(["a red ring"]))
>>> q.shape, model.localization(torch.zeros(1, 3, 96, 96), q).shape
(torch.Size([1, 96]), torch.Size([1, 4]))
"""
import torch
import torch.nn.functional as F
from torch import nn

from .backbones.detr import detr_r50, narrow_detr, sine_positions
from .backbones.transformer import Transformer, add_positions, masked_mean
from .codebook import GroupedCodebook


class Localization(nn.Module):
    """The localization stream, section 3.3: an image and a query condition q → one box."""

    def __init__(self, config):
        super().__init__()
        self.d = d = config.dim
        self.detr = detr_r50(config.detr_weights) if config.detr == "r50" else narrow_detr(
            config.backbone_width, d, config.heads, config.detr_layers, config.ffn * d)
        self.project = nn.Sequential(nn.Linear(self.detr.d, d), nn.ReLU(), nn.Linear(d, d))
        self.transformer = Transformer(d, config.visual_heads, config.visual_layers, config.ffn,
                                       config.visual_dropout)
        self.head = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 4))

    def embed(self, image, padding=None):
        """image (B, 3, H, W), its padding → v, positions (B, n_v, d), padding (B, n_v) or None."""
        tokens, padding_v = self.detr.encode(image, padding)  # (B, n_v, ·), (B, h, w), n_v = h · w
        # Boxes are relative to the padded image, so positions count padding like real cells. Their
        # length is 1, as that of v̂ in Eq. (1).
        positions = sine_positions(torch.zeros_like(padding_v), self.d)  # (B, d, h, w)
        positions = F.normalize(positions.flatten(2).transpose(1, 2), dim=-1)  # (B, n_v, d)
        return self.project(tokens), positions, None if padding is None else padding_v.flatten(1)

    def locate(self, v, positions, padding, q):
        """The box of a query condition, Eqs. (1) and (2) of section 3.3.

            v̂_i = ṽ_i · q / ‖ṽ_i · q‖₂,   v̄ = 1/n_v Σᵢ Θ_v(v̂_1, …, v̂_{n_v})ᵢ
            b̂ = σ(W_2 ReLU(W_1 v̄ + c_1) + c_2)

        · is element-wise. Θ_v takes v̂ + positions; the mean leaves out padding.
        v, positions: (B, n_v, d), padding: (B, n_v) or None, q: (B, d). Returns (B, 4)."""
        v = F.normalize(v * q[:, None], dim=-1)  # (B, n_v, d)
        v = masked_mean(self.transformer(v + positions, padding), padding)  # (B, d)
        return self.head(v).float().sigmoid()

    def forward(self, image, q, padding=None):
        return self.locate(*self.embed(image, padding), q)


class Alignment(nn.Module):
    """The alignment stream, section 3.4: text and audio → the same codes, and back."""

    def __init__(self, config, tokenizer):
        super().__init__()
        d, heads, ffn, dropout = config.dim, config.heads, config.ffn, config.dropout
        self.pad_id, self.mask_id = tokenizer.pad, tokenizer.mask
        self.words = nn.Embedding(len(tokenizer), d)
        self.text_encoder = Transformer(d, heads, config.text_layers, ffn, dropout)
        self.compress = nn.Sequential(nn.Conv1d(config.n_mels, d, 3, 2, 1), nn.GELU(),
                                      nn.Conv1d(d, d, 3, 2, 1))
        self.audio_encoder = Transformer(d, heads, config.audio_layers, ffn, dropout)
        self.project = nn.Linear(d, d)  # shared; phrases, captions and audio are normalised apart
        self.norms = nn.ModuleDict({k: nn.BatchNorm1d(d) for k in ("phrase", "caption", "audio")})
        for norm in self.norms.values():  # q multiplies ṽ in Eq. (1): start near 1
            nn.init.ones_(norm.bias)
        self.codebook = GroupedCodebook(config.groups, config.codes // config.groups, d,
                                        config.decay, config.beta)
        decoder = d, heads, config.decoder_layers, ffn, dropout
        self.text_decoder = Transformer(*decoder, cross=True)
        self.to_words = nn.Linear(d, len(tokenizer))
        self.mask_frame = nn.Parameter(torch.zeros(config.n_mels))
        self.audio_decoder = Transformer(*decoder, cross=True)
        self.expand = nn.Sequential(nn.ConvTranspose1d(d, d, 4, 2, 1), nn.GELU(),
                                    nn.ConvTranspose1d(d, config.n_mels, 4, 2, 1))

    def encode_text(self, tokens, kind="phrase"):
        """The aggregated text, Eq. (3) of section 3.4, then a linear layer and a batch norm.

            t̄ = 1/L_t Σ Θ_t(t̂_1, …, t̂_{L_t}),   t̂ the word embeddings, padding left out

        tokens: (B, L_t); kind: whose norm, phrase or caption. Returns (B, d)."""
        padding = tokens == self.pad_id  # (B, L_t)
        x = self.text_encoder(add_positions(self.words(tokens)), padding)  # (B, L_t, d)
        return self.norms[kind](self.project(masked_mean(x, padding)))

    def encode_audio(self, logmel):
        """The aggregated audio, Eq. (3) of section 3.4, then a linear layer and a batch norm.

            ā = 1/L_a Σ Θ_a(â_1, …, â_{L_a}),   â the compressed spectrogram, L_a = L_m / 4

        logmel: (B, L_m, c). Returns (B, d)."""
        x = self.audio_encoder(self._compress(logmel)).mean(1)  # (B, d)
        return self.norms["audio"](self.project(x))

    def quantise(self, *parts):
        """Eq. (4) of parts (B_i, d) in one call, so that the codebooks are updated once in a step.

        Returns the quantised parts (B_i, d), their losses and info of `GroupedCodebook.forward`."""
        x, loss, info = self.codebook(torch.cat(parts))
        x, loss = (y.split([len(part) for part in parts]) for y in (x, loss))
        return x, loss, info

    def reconstruct_text(self, tokens, mask, q):
        """T̃ = Ω_t(q, T_mask) of Eq. (5): the words behind the mask, guided by q.

        tokens, mask: (B, L_t), q: (B, d). Returns logits (B, L_t, |V|)."""
        x = add_positions(self.words(tokens.masked_fill(mask, self.mask_id)))  # (B, L_t, d)
        return self.to_words(self.text_decoder(x, tokens == self.pad_id, q[:, None]))

    def reconstruct_audio(self, logmel, mask, q):
        """Ã = Ω_a(q, A_mask) of Eq. (5): the frames behind the mask, guided by q.

        logmel: (B, L_m, c), mask: (B, L_m), q: (B, d). Returns (B, L_m, c)."""
        x = torch.where(mask[..., None], self.mask_frame.to(logmel.dtype), logmel)  # (B, L_m, c)
        x = self.audio_decoder(self._compress(x), memory=q[:, None])  # (B, L_a, d)
        return 4 * self.expand(x.transpose(1, 2)).transpose(1, 2)[:, :logmel.shape[1]] - 4

    def _compress(self, logmel):
        """(B, L_m, c) → (B, L_a, d). Values of log-mel spectrograms are between -16 and 6."""
        return add_positions(self.compress(((logmel + 4) / 4).transpose(1, 2)).transpose(1, 2))


class Turn(nn.Module):
    def __init__(self, config, tokenizer):
        super().__init__()
        self.localization, self.alignment = Localization(config), Alignment(config, tokenizer)
        self.recon_source = config.recon_source if config.lambda_recon else "no"
        self.recon_intermediate = config.recon_intermediate if config.lambda_recon else "no"

    def forward(self, batch: dict) -> dict:
        """One training step of both domains, with the reconstructions of Eq. (5), section 3.4.

            T̃ˢ = Ω_t(ťˢ, Tˢ_mask),   T̃ᵐ = Ω_t(ǎᵐ, Tᵐ_mask),   Ãᵐ = Ω_a(ťᵐ, Aᵐ_mask)

        The paper prints Ãˢ for Ãᵐ. This is "self–cross" of Figure 4; config has its other bars.
        batch: see data.py. Returns what losses.py takes; None for what is not reconstructed."""
        align = self.alignment
        t_s = align.encode_text(batch["tokens_s"])  # (b_s, d)
        t_m = align.encode_text(batch["tokens_m"], "caption")  # (b_m, d)
        a_m = align.encode_audio(batch["logmel"])  # (b_m, d)
        (t_s_q, t_m_q, a_m_q), code_losses, codes = align.quantise(t_s, t_m, a_m)
        box = self.localization(batch["image"], t_s_q, batch["padding"])
        words_s = words_m = audio = None  # T̃ˢ, T̃ᵐ, Ãᵐ
        if self.recon_source == "self":
            words_s = align.reconstruct_text(batch["tokens_s"], batch["text_mask_s"], t_s_q)
        if self.recon_intermediate != "no":
            is_cross = self.recon_intermediate == "cross"
            for_text, for_audio = (a_m_q, t_m_q) if is_cross else (t_m_q, a_m_q)
            words_m = align.reconstruct_text(batch["tokens_m"], batch["text_mask_m"], for_text)
            audio = align.reconstruct_audio(batch["logmel"], batch["audio_mask"], for_audio)
        return {"box": box, "t": t_m, "a": a_m, "code_losses": code_losses, "codes": codes,
                "words_s": words_s, "words_m": words_m, "audio": audio}

    def query(self, tokens=None, logmel=None):
        """The query condition q (B, d) of text or of audio (inference, end of section 3.5)."""
        align = self.alignment
        x = align.encode_text(tokens) if logmel is None else align.encode_audio(logmel)
        return align.quantise(x)[0][0]

    def random_query(self, n: int, generator: torch.Generator):
        """A random vector of unit variance for q (TURN w/o Query, Tables 1 and 2): (n, d)."""
        return torch.randn(n, self.localization.d, generator=generator)
