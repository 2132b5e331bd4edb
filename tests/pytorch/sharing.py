"""Recalibrate in N processes of torch.distributed; run as ``python sharing.py OUT N …``.

The processes are forked from one that has imported everything already, and each writes the float64
statistics that it ended up with, in both modes, to ``OUT/N-RANK.npz``.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import numpy as np
import torch  # noqa: F401  before the fork, so that it is loaded once

import normsurgery
from normsurgery import pytorch
from normsurgery.constants import Constant, constant_of
from normsurgery.graph import Graph

SAMPLES = Path(__file__).parents[2] / "sample_models"


MODELS = {"batch": "digits_resnet", "sequential": "digits_conv1d"}


def work(out: Path, count: int, rank: int) -> None:
    images = np.load(SAMPLES / "digits.npz")["train_images"][:120]
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count))
    found = {}
    with pytorch.processes() as peers:
        assert (peers.index, peers.count) == (rank, count)
        for mode, name in MODELS.items():
            result = normsurgery.recalibrate(
                SAMPLES / f"{name}.onnx",
                {"image": images},
                mode=mode,
                batch_size=12,
                peers=peers,
                threads=1,
            )
            for node, values in statistics(result).items():
                found[f"{mode} {node}".replace("/", "|")] = values
    np.savez(out / f"{count}-{rank}.npz", **found)


def statistics(result: normsurgery.RecalibrateResult) -> dict[str, np.ndarray]:
    """Return mean and variance of each norm, before they are rounded to float32."""
    main = Graph(result.content).main
    found = {}
    for node in main.nodes:
        if node.op_type == "BatchNormalization":
            pair = [constant_of(main, node.input[slot]) for slot in (3, 4)]
            assert all(isinstance(one, Constant) for one in pair)
            found[node.name] = np.stack([one.float64() for one in pair])
    return found


def main() -> None:
    out = Path(sys.argv[1])
    for count in map(int, sys.argv[2:]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        children = []
        for rank in range(count):
            child = os.fork()
            if child == 0:
                try:
                    work(out, count, rank)
                except BaseException as error:  # noqa: BLE001  a child must not go on as its parent
                    sys.stderr.write(f"process {rank} of {count}: {error!r}\n")
                    os._exit(1)
                os._exit(0)
            children.append(child)
        for child in children:
            _, status = os.waitpid(child, 0)
            if status:
                sys.exit(f"a process of {count} failed")


if __name__ == "__main__":
    main()
