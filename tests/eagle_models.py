"""A tiny target with a drafter over its hidden states that has learned some of its text."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from reference import eagle
from reference.eagle import TinyEagle1
from reference.parallel_eagle import forward, target_features, target_outputs
from reference.tiny_eagle import Tensors, TinyEagle, weights, write_tiny_eagle
from safetensors.torch import load_file
from specrt import LLM, SamplingParams
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

_DEPTHS = 4
_CANDIDATES = 8  # for each place of a tree
_PASSES = 12


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one core: for these sizes its threads cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def greedy_texts(target: Path, prompts: list[list[int]], length: int) -> list[list[int]]:
    """The prompts as the target goes on with them, by transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    texts = torch.tensor(prompts)
    with one_thread(), torch.no_grad():
        while texts.shape[1] < length:
            texts = torch.cat([texts, model(texts).logits[:, -1:].argmax(-1)], dim=1)
    found: list[list[int]] = texts.tolist()
    return found


def trained_weights(model: TinyEagle, target: Path, texts: list[list[int]]) -> Tensors:
    """Weights that predict the texts at all depths; every anchor, a few passes of Adam."""
    tensors = {name: each.requires_grad_() for name, each in weights(model).items()}
    optimizer = torch.optim.Adam(tensors.values(), lr=3e-3)
    features = [target_features(target, text, model.feature_layers) for text in texts]
    anchors = torch.arange(len(texts[0]) - 1 - _DEPTHS).repeat(_DEPTHS)
    depths = torch.arange(_DEPTHS).repeat_interleave(len(anchors) // _DEPTHS)
    for _ in range(_PASSES):
        for text, known in zip(texts, features, strict=True):
            tokens = torch.tensor(text)
            logits = forward(model, tensors, tokens, known, anchors, depths)
            optimizer.zero_grad()
            cross_entropy(logits, tokens[anchors + depths + 2]).backward()
            optimizer.step()
    return {name: each.detach() for name, each in tensors.items()}


def trained_eagle1(model: TinyEagle1, target: Path, texts: list[list[int]]) -> Tensors:
    """Weights whose estimates lead the target's head to the texts; each from the true states."""
    own = load_file(target / "model.safetensors")
    head = own.get("lm_head.weight", own["model.embed_tokens.weight"]).float()
    tensors = {name: each.requires_grad_() for name, each in eagle.weights(model).items()}
    optimizer = torch.optim.Adam(tensors.values(), lr=3e-3)
    states = [target_outputs(target, text)[:-1] for text in texts]
    with one_thread():
        for _ in range(3 * _PASSES):
            for text, known in zip(texts, states, strict=True):
                tokens = torch.tensor(text)
                found = eagle.estimates(model, tensors, tokens[1:], known)[:-1]
                wanted = known[1:]
                loss = cross_entropy(found @ head.T, tokens[2:])
                loss = loss + smooth_l1_loss(found, wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return {name: each.detach() for name, each in tensors.items()}


class TreeRound(NamedTuple):
    """A round with a tree: the ranks of its first tokens among the candidates, and its tokens."""

    ranks: list[int]
    committed: int


def tree_rounds(llm: LLM, prompt: list[int], count: int) -> list[TreeRound]:
    """Of a greedy completion of `count` tokens."""
    params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
    rounds = llm.core.generate(prompt, params.to_core()).metrics.rounds
    return [TreeRound(r.ranks, r.committed) for r in rounds]


def check_ranks(
    rounds: Sequence[TreeRound],
    text: Sequence[int],
    committed: int,
    scores: Callable[[int, Sequence[int]], Tensor],
) -> int:
    """Compare the ranks of every round with those by `scores`; returns how many lie off the chain.

    A rank behind a token that was not the likeliest is right only if that token's node was drafted
    behind its own path.

    Args:
        rounds: as `tree_rounds` gives them.
        text: what the target says, from the beginning of the prompt.
        committed: tokens before the first round.
        scores: logits (n, vocab) of a draft of n tokens behind so many of the text that takes this
            path.
    """
    off_the_chain = 0
    for ranks, count in rounds:
        path = text[committed : committed + len(ranks)]
        if path:
            found = scores(committed, path)
            better = found > found.gather(1, torch.tensor(list(path))[:, None])
            assert ranks == better.sum(1).clamp(max=_CANDIDATES).tolist()
        off_the_chain += sum(any(ranks[:depth]) for depth in range(1, len(ranks)))
        committed += count
    assert committed == len(text)
    return off_the_chain


def write_trained(folder: Path, model: TinyEagle, target: Path, texts: list[list[int]]) -> Path:
    """Write a drafter trained on `texts` into a new folder."""
    with one_thread():
        return write_tiny_eagle(folder, model, trained_weights(model, target, texts))
