"""Whether every method trains on a device: two toy tasks, 20 steps, a tiny random model, padded batches; one line each.

    python benchmarks/gpu/each_method.py [--kind llama | t5] [--precision bfloat16] [--compile none] [--quantize none]
        [--methods seqlora,rkif] [--part 1/2] [--device auto]

A run whose weights or losses are not finite fails, and says at which step; what it answers means nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import clbench
from clbench.model.tiny import save_tiny_llama, save_tiny_t5

METHODS = (
    "seqlora,lorareplay,mtl,rkif,ewc,tasl,migu,vrmcl,inclora,olora,moelora,sapt,l2p,lfpt5,"
    "agem,gem,derpp,sure,forever,aimmerging,lwf,ella,nlora,inflora,gainlora,sdlora"
)
OPTIONS = {"lfpt5": {"prompt_length": 6, "samples_per_class": 1, "write_length": 8}}
SETTINGS = {
    "stream": "agnews,yahoo", "limit_train": 80, "limit_test": 16, "epochs": 1, "batch_size": 8, "max_input": 256,
    "max_target": 8, "max_answer": 4, "lora_rank": 2, "learning_rate": 1e-3, "threads": 1,
}  # fmt: skip


def main() -> None:
    """Run, print, exit with 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kind", default="llama", choices=["llama", "t5"])
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--compile", default="none")
    parser.add_argument("--quantize", default="none")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--part", default="1/1", help="1/2: the first, third ... method; 2/2: the others [all]")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    os.environ["CLBENCH_CACHE"] = "none"
    given = {name: value for name, value in vars(arguments).items() if name not in ("kind", "methods", "part")}
    part, parts = map(int, arguments.part.split("/"))
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        save = save_tiny_llama if arguments.kind == "llama" else save_tiny_t5
        backbone = str(save(Path(folder) / arguments.kind))
        for method in arguments.methods.split(",")[part - 1 :: parts]:
            begin = time.perf_counter()
            try:
                record = clbench.run(
                    method, options=OPTIONS.get(method), results=folder, **{**SETTINGS, **given, "backbone": backbone}
                )
                said = f"OP {record.metrics.op:.1f}"
            except Exception as error:  # the others are to be tried, too
                failed.append(method)
                said = f"FAILED: {error}"
            print(f"{method:10} {time.perf_counter() - begin:5.1f} s  {said}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
