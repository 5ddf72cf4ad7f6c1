"""TensorRT-LLM as an optional backend: checkpoints, engine builds, and loops over its engines.

specrt imports this package only where it is asked for, and this package imports TensorRT-LLM only
where an executor is opened (`executor.py`). Engine builds exist in TensorRT-LLM 1.0 to 1.2; they
run in a process and an environment of their own. This project has run none of its engines yet.

    unified.py     what a TensorRT-LLM checkpoint holds: config.json, and the tensors of each rank
    checkpoint.py  writes one from Hugging Face weights
    medusa.py      reads Medusa heads
    roles.py       the command line of trtllm-build for each role
    preflight.py   whether this machine can run it
    builder.py     `specrt build --backend tensorrt-llm`
    executor.py    one engine as specrt sees it
    generator.py   greedy decoding, speculative decoding and PEARL over two executors
"""
