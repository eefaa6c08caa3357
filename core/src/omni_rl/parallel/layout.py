"""How the ranks of a run are arranged: in sequence groups, whose ranks share each sample.

With sequence parallelism, the ranks of a sequence group compute the same samples, each a part of their token sequences.
They are one *data rank*: rows of training data are dealt to data ranks. Ranks with equal places in their sequence
groups exchange rows with each other, so that all ranks of a sequence group have the same rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from omni_rl.errors import ConfigError
from omni_rl.parallel.group import Ranks, everyone, world_size


class Layout(NamedTuple):
    """The arrangement of the ranks.

    Attributes:
        mesh: all ranks, with the dimensions ``data``, ``ring`` and ``ulysses``.
        data: the ranks with this rank's place in their sequence groups.
        sequence: the ranks of this rank's sequence group, which share each sample.
    """

    mesh: DeviceMesh
    data: Ranks
    sequence: Ranks


_ARRANGED: list[Layout] = []


@contextlib.contextmanager
def arranged(ulysses: int, ring: int, device_type: str) -> Iterator[None]:
    """A context in which ``ulysses * ring`` ranks share each sample; the process group must be joined.

    Raises:
        ConfigError: the number of ranks is not a multiple of it.
    """
    each = ulysses * ring
    if each == 1:
        yield
        return
    if world_size() % each:
        raise ConfigError(
            f"train.sequence_parallel: {each} processes share each sample (ulysses {ulysses}, ring {ring}), "
            f"but the run has {world_size()}",
            f"set launcher.name: torchrun with a multiple of {each} as launcher.processes, or smaller sizes",
        )
    shape = (world_size() // each, ring, ulysses)
    mesh = init_device_mesh(device_type, shape, mesh_dim_names=("data", "ring", "ulysses"))
    sequence = mesh["ring", "ulysses"]._flatten()
    _ARRANGED.append(Layout(mesh, _ranks(mesh["data"]), _ranks(sequence)))
    try:
        yield
    finally:
        _ARRANGED.pop()


def layout() -> Layout | None:
    """The arrangement of the ranks; None if no two of them share a sample."""
    return _ARRANGED[-1] if _ARRANGED else None


def data_ranks() -> Ranks:
    """The ranks among which rows are dealt."""
    return _ARRANGED[-1].data if _ARRANGED else everyone()


def sequence_ranks() -> Ranks:
    """The ranks that share each sample with this one."""
    return _ARRANGED[-1].sequence if _ARRANGED else Ranks(0, 1)


def _ranks(mesh: DeviceMesh) -> Ranks:
    return Ranks(mesh.get_local_rank(), mesh.size(), mesh.get_group())
