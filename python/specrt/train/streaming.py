"""Training of Speculative Streaming: options, learned elements, and what is read of the target.

The layout is that of `group_mask`: depth 0 of an anchor is the main path, depth j its stream j.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specrt.build.hf import ARCHITECTURES
from specrt.train.group_batches import GroupBatch
from specrt.train.group_mask import PAD_ANCHOR, Cod
from specrt.train.parallel import RunOptions
from specrt.train.stream_adapter import (
    MODES,
    MainPath,
    Picks,
    StreamAdapter,
    StreamConfig,
    main_path,
)
from specrt.train.stream_attention import ATTENTIONS, choose_attention
from specrt.train.stream_folder import read_streams, write_shared, write_streams
from specrt.train.trainee import TargetView, Trainee, top_tokens

# The depth of the early exit's element of an anchor, which learns the same token as depth 0.
EXIT = -1


@dataclass(frozen=True)
class StreamView(TargetView):
    """`main` is the main path; None where it learns too."""

    main: MainPath | None


class StreamTrainee(Trainee):
    """Streams beside the main path of the target itself."""

    module: StreamAdapter
    own = 1

    def __init__(self, adapter: StreamAdapter, target: PreTrainedModel, *, bf16: bool) -> None:
        target.requires_grad_(False)
        self.module, self.target = adapter, target
        self.depths = 1 + adapter.config.streams
        self.bf16 = bf16
        self.kind = "Speculative Streaming adapter"
        self.does = f"{adapter.config.streams} positions beside the target's own token"

    def numbers(self) -> dict[str, object]:
        """The shape of the adapter."""
        config = self.module.config
        return {
            "mode": MODES[config.shared],
            "streams": config.streams,
            "stream_layers": config.layers,
            "stream_positions": config.positions,
            "lora_rank": config.rank,
            "lora_modules": list(config.modules),
        }

    def learned(self, batch: GroupBatch) -> GroupBatch:
        """Streams, the early exit, and the main path if it is trained."""
        main = batch.depth_of == 0
        exits = replace(batch.only(main), depth_of=torch.full_like(batch.rows[main], EXIT))
        return (batch if self.module.config.shared else batch.only(~main)).and_learned(exits)

    def seen(self, batch: GroupBatch, attention: str) -> None:
        """Streams have an attention of their own."""

    def view(self, target: PreTrainedModel, batch: GroupBatch, *, teach: bool) -> StreamView:
        """One forward of a frozen target gives main path and teacher."""
        if self.module.config.shared:
            return StreamView(super().view(target, batch, teach=teach).top, None, None)
        with torch.no_grad():
            main = main_path(target, batch.ids, self.module.first)
            top = batch.top if teach else None
            if teach and top is None:
                top = top_tokens(target.lm_head(main.last), batch)
        return StreamView(top, None, main)

    def scores(self, model: nn.Module, batch: GroupBatch, seen: object, view: TargetView) -> Tensor:
        """Scores of main path, early exit and streams."""
        if not isinstance(view, StreamView):
            raise TypeError("streams read the main path of their target")
        picks = make_picks(batch, self.module.config.streams)
        with self._autocast():
            scores: Tensor = model(self.target, batch.ids, view.main, picks)
        return scores

    def _autocast(self) -> torch.autocast:
        """In training as asked; a target in bf16 meets the adapter's float32 only so."""
        enabled = (self.bf16 and self.module.training) or self.target.dtype == torch.bfloat16
        return torch.autocast(self.target.device.type, torch.bfloat16, enabled=enabled)

    def set_attention(self, implementation: str) -> None:
        """There is one kind."""

    def export(self, target: Path, out: Path) -> None:
        """An adapter; with a shared LoRA the merged target, and the adapter in a subfolder."""
        write = write_shared if self.module.config.shared else write_streams
        write(self.module, self.target, target, out)


def make_picks(batch: GroupBatch, streams: int) -> Picks:
    """Positions with streams, and where each learned element of the batch lies."""
    anchors, depths = batch.anchors, batch.depths
    (b, t), s = batch.ids.shape, anchors.shape[1]
    first = (depths == 1) & (anchors != PAD_ANCHOR)
    p = max(1, int(first.sum(1).max()))
    # Anchors ascend within a depth; what has no streams sorts behind.
    groups = torch.where(first, anchors, PAD_ANCHOR).sort(1).values[:, :p].contiguous()
    sequence, anchor = batch.rows // s, anchors.flatten()[batch.rows]
    place = torch.searchsorted(groups, anchors.contiguous()).flatten()[batch.rows]
    main = sequence * t + anchor
    stream = 2 * b * t + (sequence * p + place) * streams + batch.depth_of - 1
    elements = torch.where(
        batch.depth_of > 0, stream, torch.where(batch.depth_of == EXIT, b * t + main, main)
    )
    return Picks(groups.clamp(max=t - 1), elements)


@dataclass(frozen=True, kw_only=True)
class StreamOptions(RunOptions):
    """An adapter of streams for the target, or the target fine-tuned together with them.

    Attributes:
        mode: lossless (the target stays as it is) or shared (its main path learns too).
        draft: an earlier adapter to go on from, of the same shape; of a LoRA of higher rank the
            directions of most effect are kept.
        streams: of each position.
        stream_layers: of the target that they go through.
        stream_positions: shifted or same; see `StreamConfig`.
        lora_rank: of the LoRA.
        lora_modules: matrices that have one.
        stream_weight: of each stream's loss beside the main path's, which has 1.
        exit_weight: of the early exit's loss.
        embedding_rate: learning rate of the stream embeddings, in units of the residual where
            streams begin; that of the LoRA, in units of its module, is `learning_rate`.
        position_share: of the positions of an answer that get streams in a step.
        attention: torch, fused or auto; see `choose_attention`.
    """

    mode: str = "lossless"
    streams: int = 4
    stream_layers: int = 4
    stream_positions: str = "shifted"
    lora_rank: int = 32
    lora_modules: tuple[str, ...] = ("qkv", "o", "down")
    stream_weight: float = 0.1
    exit_weight: float = 0.1
    embedding_rate: float = 0.01
    position_share: float = 0.25
    attention: str = "torch"
    optimizer: str = "adamw"
    learning_rate: float = 2.5e-4

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}; there are {', '.join(MODES)}")
        if self.attention not in ATTENTIONS:
            raise ValueError(
                f"unknown attention {self.attention!r}; there are {', '.join(ATTENTIONS)}"
            )
        if self.stream_weight <= 0.0:
            raise ValueError(f"the stream weight must be positive, not {self.stream_weight}")
        if self.exit_weight < 0.0 or self.embedding_rate <= 0.0:
            raise ValueError(
                f"the weight of the exit ({self.exit_weight}) must not be negative, the embedding "
                f"rate ({self.embedding_rate}) must be positive"
            )
        if not 0.0 < self.position_share <= 1.0:
            raise ValueError(f"the position share must be in (0, 1], not {self.position_share}")
        if self.draft is not None and self.mode == "shared":
            raise ValueError("training goes on from an adapter in lossless mode alone")
        self._shape()
        super().__post_init__()

    def _shape(self) -> StreamConfig:
        return StreamConfig(
            self.streams,
            self.stream_layers,
            self.stream_positions,
            self.lora_rank,
            self.lora_modules,
            self.mode == "shared",
        )

    @property
    def depths(self) -> int:
        """The main path and the streams."""
        return 1 + self.streams

    @property
    def cod(self) -> Cod:
        """The same positions at all depths."""
        return Cod(self.position_share, self.position_share)

    @property
    def other_rate(self) -> float:
        """Of the stream embeddings."""
        return self.embedding_rate

    def layout_numbers(self) -> dict[str, object]:
        """Weights and share."""
        return {
            "stream_weight": self.stream_weight,
            "exit_weight": self.exit_weight,
            "embedding_rate": self.embedding_rate,
            "position_share": self.position_share,
        }

    def mean_loss(self, losses: Tensor, depth_of: Tensor) -> Tensor:
        """Weighted sum of the means of all kinds of elements."""
        total, weights = losses.new_zeros(()), {0: 1.0, EXIT: self.exit_weight}
        for depth in sorted(set(depth_of.tolist())):
            mean = losses[depth_of == depth].mean()
            total = total + weights.get(depth, self.stream_weight) * mean
        return total

    def trainee(self, target: PreTrainedModel) -> StreamTrainee:
        """A new adapter, or the earlier one."""
        if target.config.model_type not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ValueError(
                f"the target is a {target.config.model_type!r} model; streams go through the "
                f"layers of {known}"
            )
        adapter = StreamAdapter(self._shape(), target)
        if self.draft is not None:
            adapter = self._continued(adapter, read_streams(self.draft, target, self.target))
        adapter.attention = choose_attention(self.attention, target.device)
        return StreamTrainee(adapter, target, bf16=self.precision == "bf16")

    def _continued(self, new: StreamAdapter, earlier: StreamAdapter) -> StreamAdapter:
        if earlier.config == new.config:
            return earlier
        rank = earlier.config.rank
        if rank < new.config.rank or replace(new.config, rank=rank) != earlier.config:
            raise ValueError(
                f"{self.draft} has the shape {earlier.config}; ask for that one, or for a lower "
                "rank of its LoRA"
            )
        new.take_largest(earlier)
        return new
