"""One line about a completion: what ran, and how fast."""

from specrt.outputs import RequestOutput


def summary(output: RequestOutput) -> str:
    """Method, tokens, speed, time to the first token, and how drafting went."""
    metrics = output.metrics
    parts = [
        output.method,
        f"{metrics.completion_tokens} tokens ({output.finish_reason})",
        f"{metrics.tokens_per_second:,.0f} tokens/s",
        f"first after {metrics.ttft_ms:.0f} ms",
    ]
    drafting = metrics.speculative_decoding
    if drafting is not None:
        parts.append(f"{drafting.mean_acceptance_length:.2f} tokens a round")
        parts.append(f"{drafting.draft_acceptance_rate:.0%} of the draft accepted")
    return f"[{', '.join(parts)}]"
