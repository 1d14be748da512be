"""What end-to-end learning needs in memory, known before anything runs, and the options by which it fits into it.

The bound is of a probing run, which takes most: n images, T steps, a denoiser with values of V bytes and inputs of I
bytes an image, and c cotangents. What waits between the passes is at most ``n T (V + I)`` bytes. On the device lie the
graph of one call, up to ``graph_bytes`` of further ones, and ``n V (7 c + 2)`` bytes of cotangents and values of one
step: what came back (2 c), what later rows owe (5 c), what cells hand out and what they would compute. Decoders and
ControlNets are not counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from stepmask.inspection.first_step import first_step
from stepmask.inspection.graph_bytes import GraphBytes, graph_bytes
from stepmask.inspection.placement import cast_to, device_of, plain_parts
from stepmask.learning.end_to_end.config import EndToEnd
from stepmask.learning.processes import Processes, num_on_this_machine
from stepmask.learning.refusals import check_checkpointing
from stepmask.runtime.task import Task
from stepmask.values import num_bytes

ROOM = 0.9
"""Share of the free memory that learning may take; allocators leave gaps."""


@dataclass(frozen=True)
class Needs:
    """Bytes beside the model.

    Attributes:
        device: Where the denoiser is.
        host: In host memory, where the denoiser is elsewhere.
    """

    device: int
    host: int = 0


@dataclass(frozen=True)
class Memory:
    """What the memory of learning depends on.

    Attributes:
        num_rows: T.
        graph: What autograd keeps of one step of one image.
        value_bytes: V, of the values of all sites, per image.
        input_bytes: I, of what the denoiser is called with, per image.
        on_host: Whether the denoiser computes in host memory.
        cast_bytes: By how much its weights grow, where layerwise casting keeps them in fewer bits between calls.
    """

    num_rows: int
    graph: GraphBytes
    value_bytes: int
    input_bytes: int
    on_host: bool
    cast_bytes: int = 0

    @classmethod
    def of(cls, task: Task) -> Memory | None:
        """Of learning on a task; None where no copy of the denoiser shows what autograd would keep."""
        step = first_step(task.pipe, task.call_kwargs)
        try:
            graph = graph_bytes(task.description, step)
        except Exception:  # whatever a model's code may raise: then nothing is known
            return None
        inputs = num_bytes(step.inputs or {}) * step.forwards
        on_host = _device_of(task).type == "cpu"
        cast = cast_bytes(task.denoiser)
        return cls(task.shape[0], graph, int(task.costs.value_bytes.sum()), inputs, on_host, cast)

    def needs(self, config: EndToEnd) -> Needs:
        """At most so much, under options of which none is left open."""
        images = min(config.images_per_call or config.num_probes, config.num_probes)
        of_call = images * self.graph_bytes(config)
        kept = min(config.graph_bytes, (self.num_rows - 1) * of_call)
        step = images * self.value_bytes * (7 * (1 + config.num_projections) + 2)
        waiting = images * self.num_rows * (self.value_bytes + self.input_bytes)
        device = of_call + kept + step + self.cast_bytes
        return Needs(device, waiting) if config.offload and not self.on_host else Needs(device + waiting)

    def graph_bytes(self, config: EndToEnd) -> int:
        """What autograd keeps of one step of one image under such options."""
        return self.graph.checkpointed if config.gradient_checkpointing else self.graph.plain

    def choose(self, config: EndToEnd, free: Needs) -> EndToEnd:
        """The options, those that were left open chosen so that learning fits into what is free.

        Of the choices that fit, the first: everything at once; gradient checkpointing; what waits on the host; both;
        then the same with half as many images per call, and so on. Where none fits, the last, which needs least.
        """
        for chosen in self._choices(config):
            needs = self.needs(replace(chosen, graph_bytes=0))
            left = int(ROOM * free.device) - needs.device
            if left >= 0 and needs.host <= ROOM * free.host:
                return replace(chosen, graph_bytes=min(config.graph_bytes, left))
        return replace(chosen, graph_bytes=0)

    def _choices(self, config: EndToEnd) -> Iterator[EndToEnd]:
        checkpointing = [False, True] if self.graph.checkpointed is not None else [False]
        offload = [False] if self.on_host else [False, True]
        images = [None, *(config.num_probes >> i for i in range(1, config.num_probes.bit_length()))]
        for count in images if config.images_per_call is None else [config.images_per_call]:
            for away in offload if config.offload is None else [config.offload]:
                for again in (
                    checkpointing if config.gradient_checkpointing is None else [config.gradient_checkpointing]
                ):
                    yield replace(config, images_per_call=count, offload=away, gradient_checkpointing=again)


def fitted(config: EndToEnd, task: Task, processes: Processes | None = None) -> tuple[EndToEnd, Memory | None]:
    """The options, those that were left open chosen for the memory that is free; and what decided.

    Where it is not known what learning needs, or what is free, it runs as if there were enough. Of several processes
    that learn together all run as many images at once as fit in each.

    Raises:
        UnsupportedModelError: Gradient checkpointing is asked for, and the denoiser has none.
    """
    if config.gradient_checkpointing:
        check_checkpointing(task.denoiser)
    memory, free = Memory.of(task), free_bytes(_device_of(task))
    chosen = replace(config, offload=bool(config.offload), gradient_checkpointing=bool(config.gradient_checkpointing))
    if memory is not None and free is not None:
        chosen = memory.choose(config, free)
    counts = (processes or Processes()).gather(chosen.images_per_call)
    chosen = replace(chosen, images_per_call=min(filter(None, counts), default=None))
    return chosen, memory


def cast_bytes(model: torch.nn.Module) -> int:
    """By how much weights under layerwise casting grow when they are in the dtype that they are cast to."""
    return sum(
        weight.numel() * max(0, cast_to(module).itemsize - weight.itemsize)
        for module in model.modules()
        if cast_to(module) is not None
        for weight in module.parameters()
    )


def model_bytes(task: Task) -> int:
    """Bytes of all weights of the pipeline that are where its denoiser is."""
    parts = getattr(task.pipe, "components", {"denoiser": task.denoiser}).values()
    weights = {
        kept.untyped_storage().data_ptr(): kept.untyped_storage().nbytes()
        for part in parts
        if isinstance(part, torch.nn.Module)
        for weight in part.parameters()
        for kept in plain_parts(weight)
        if kept.device == _device_of(task)
    }
    return sum(weights.values())


def free_bytes(device: torch.device) -> Needs | None:
    """What is free on a device and on its host; None where it is not known."""
    host = _free_on_host()
    if device.type == "cpu":
        return None if host is None else Needs(host)
    of_device = getattr(torch, device.type, None)
    if not hasattr(of_device, "mem_get_info"):
        return None
    reserved = of_device.memory_reserved(device) - of_device.memory_allocated(device)
    return Needs(of_device.mem_get_info(device)[0] + reserved, host or 0)


def _free_on_host() -> int | None:
    """Bytes that this process can take without swapping, within the limit of a container; None where nobody says."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
    with contextlib.suppress(OSError, ValueError, StopIteration):
        group = Path("/sys/fs/cgroup")
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (group / "memory.stat").read_text().splitlines()
        given_up = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file"))
        found.append(most - used + given_up)
    return min(found) // num_on_this_machine() if found else None


def _device_of(task: Task) -> torch.device:
    return device_of(task.denoiser)
