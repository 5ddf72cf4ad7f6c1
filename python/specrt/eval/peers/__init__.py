"""Side-by-side measurement of specrt and other runtimes on the same weights and prompts.

`cli.py` is the entry point (`tools/bench_peers.py`); a peer is one module: `llamacpp.py`, `hf.py`,
`own.py`. Nothing here is imported by the runtime.
"""
