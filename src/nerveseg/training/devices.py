"""Processes that train one network together, one per device: how they start, what they exchange, how they end.

Together they do what one process does: `train.batch_size` is the size of the global batch, each process computes its
slice of it, and loss, batch statistics and gradients are those of the whole.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from threading import Thread
from typing import Any, Literal, TypeVar

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed
from torch.utils.data import BatchSampler, Sampler

from nerveseg.console import console
from nerveseg.errors import NervesegError

GRACE = 15  # seconds from SIGTERM to SIGKILL, less than those of workspace/supervise.py, which would leave orphans
TIMEOUT = timedelta(minutes=30)  # for which a process waits for the others
_RUN = "nerveseg"  # name of the processes that `launch` starts, which have a pipe to it as standard input
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
T = TypeVar("T")


class ProcessError(NervesegError):
    """One of the processes has ended; the launcher ends like it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees them; by default it is alone.

    Attributes:
        rank: the number of this process, from 0. Process 0 claims, prints, logs and writes for all.
        size: how many there are.
        per_node: how many of them run on each node.
        cluster: what started them, in Lightning's terms.
    """

    rank: int = 0
    size: int = 1
    per_node: int = 1
    cluster: ClusterEnvironment = field(default_factory=LightningEnvironment)

    @property
    def first(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def tell(self, what: T) -> T:
        """What process 0 calls this with. All must call it."""
        told = [what]
        if self.size > 1:
            distributed.broadcast_object_list(told, src=0)
        return told[0]

    def gather(self, what: T) -> list[T]:
        """What each process calls this with, by rank. All must call it."""
        gathered: list[Any] = [what]
        if self.size > 1:
            gathered = [None] * self.size
            distributed.all_gather_object(gathered, what)
        return gathered

    def require_same(self, what: str, digest: str) -> None:
        """Raises NervesegError where the processes disagree on a digest of `what`. All must call it."""
        found = self.gather((digest, socket.gethostname()))
        if wrong := sorted({host for other, host in found if other != found[0][0]}):
            raise NervesegError(
                f"{', '.join(wrong)} has another {what} than {found[0][1]}, where process 0 runs. All nodes need the "
                "same: use a workspace on storage that they share, or the same commit and `dvc pull`."
            )

    def whole(self, part: torch.Tensor) -> torch.Tensor:
        """The global batch, of whose slices (N / size, ...) `part` is this process's: (N, ...), in the order of ranks.

        Gradients flow into the own slice alone.
        """
        if self.size == 1:
            return part
        own = part.detach().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(parts, own)
        parts[self.rank] = part
        return torch.cat(parts)

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        """This process's slice of a global batch, as it is in `whole`."""
        size = len(whole) // self.size
        return whole[self.rank * size : (self.rank + 1) * size]

    def trainer_options(self) -> dict[str, Any]:
        """What Lightning's `Trainer` is to be made with, beside `cluster` as a plugin."""
        if self.size == 1:
            return {"devices": 1}
        strategy = DDPStrategy(
            find_unused_parameters=True,  # EfficientNet's last layer and PSPNet's last stages
            broadcast_buffers=False,  # they are those of batch normalisation, which is synchronised
            gradient_as_bucket_view=True,
        )
        return {
            "devices": self.per_node,
            "num_nodes": self.size // self.per_node,
            "strategy": strategy,
            "use_distributed_sampler": False,
        }

    def callbacks(self) -> list[Callback]:
        """Those that Lightning needs where there are several processes."""
        return [_OwnSignals()] if self.size > 1 else []

    def with_synchronised_statistics(self, network: torch.nn.Module, device: str) -> torch.nn.Module:
        """The network, with batch normalisation over the global batch; parameters and names in its state stay."""
        if self.size == 1:
            return network
        if device == "cuda":
            from timm.layers.norm_act import convert_sync_batchnorm  # torch's drops the activation of timm's layers

            converted: torch.nn.Module = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
            return converted
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.__class__ = SyncBatchNorm
        return network


ALONE = World()


class SyncBatchNorm(torch.nn.BatchNorm2d):
    """Batch normalisation over the global batch on the CPU, for which torch has none; with timm's activation."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        found = self._synchronised(input) if self.training else super().forward(input)
        for name in ("drop", "act"):  # of timm's BatchNormAct2d
            if hasattr(self, name):
                found = getattr(self, name)(found)
        return found

    def _synchronised(self, input: torch.Tensor) -> torch.Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
        every = mean.new_zeros((distributed.get_world_size(), 2, len(mean)))
        every[distributed.get_rank()] = torch.stack([mean, variance])
        means, variances = _Sum.apply(every).unbind(1)
        # Of slices of one size: the variance of a mixture is the mean of the variances and the variance of the means.
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            count = values.numel() // len(mean) * len(every)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], values, scale[:, None, None]).to(input.dtype)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(_: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (gradient,) = gradients
        return _Sum.forward(None, gradient.contiguous())


class Share(Sampler[list[Any]]):
    """One process's share of the global batches: its slice of each, or whole ones in turn."""

    def __init__(self, batches: BatchSampler, world: World, slices: bool) -> None:
        """
        Args:
            batches: the global ones; `slices` need a size that is a multiple of the number of processes.
            slices: whether all processes work on each batch; otherwise process r gets batches r, r + size, ...
        """
        self.sampler = batches.sampler  # where Lightning looks for `set_epoch`
        self._batches = batches
        self._world = world
        self._slices = slices

    def __len__(self) -> int:
        whole = len(self._batches)
        return whole if self._slices else len(range(self._world.rank, whole, self._world.size))

    def __iter__(self) -> Iterator[list[Any]]:
        if not self._slices:
            yield from islice(self._batches, self._world.rank, None, self._world.size)
            return
        for batch in self._batches:
            size = len(batch) // self._world.size
            yield batch[self._world.rank * size : (self._world.rank + 1) * size]


class _OwnSignals(Callback):
    """Leaves SIGTERM to the handler that was there before.

    Lightning's handler talks to the other processes, which may be in the midst of something else by then; and it would
    wait for them at each step, to ask whether process 0 has had the signal.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        signal.signal(signal.SIGTERM, self._handler)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def is_one_of_several() -> bool:
    """Whether torchrun, `srun` or `launch` has started this process and others to train together."""
    return _cluster() is not None


def _cluster() -> ClusterEnvironment | None:
    if all(name in os.environ for name in _TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1:
        return TorchElasticEnvironment()
    # Of a step, which `srun` starts; a batch script has SLURM_NTASKS too, but is one process.
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return SLURMEnvironment(auto_requeue=False)
    return None


def per_node(wanted: int | Literal["auto"], device: str) -> int:
    """How many processes train on this node: one for each device.

    Args:
        wanted: their number, or `auto`: all GPUs.
        device: `cpu`, `cuda` or `mps`.

    Raises:
        NervesegError: this machine has fewer devices.
    """
    available = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device)
    if wanted == "auto":
        return available or 1
    if available is not None and wanted > available:
        raise NervesegError(
            f"NERVESEG_DEVICES is {wanted}, but this machine has {available} for NERVESEG_DEVICE {device}; lower it, "
            "or set it to auto."
        )
    return wanted


@contextmanager
def joined(device: str) -> Iterator[World]:
    """This process among those that train together; without others, alone.

    Of an error that several of them raise, one prints the message.

    Raises:
        NervesegError: this process has no GPU of its own.
        SystemExit: with status 1, because another process has ended, which says why.
    """
    cluster = _cluster()
    if cluster is None:
        yield World()
        return
    rank, size = cluster.global_rank(), cluster.world_size()
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    local = size // nodes if isinstance(cluster, SLURMEnvironment) else int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if os.environ.get("TORCHELASTIC_RUN_ID") == _RUN:
        Thread(target=_end_with_launcher, daemon=True).start()
    console.quiet = rank > 0
    backend = "gloo"
    if device == "cuda":
        if cluster.local_rank() >= torch.cuda.device_count():
            raise NervesegError(
                f"Process {rank}, the {cluster.local_rank()}th on {socket.gethostname()} from 0, sees "
                f"{torch.cuda.device_count()} GPUs. Start one process per GPU, and let each see all GPUs of its node."
            )
        torch.cuda.set_device(cluster.local_rank())
        backend = "cpu:gloo,cuda:nccl"
    elif device == "mps":
        raise NervesegError("Several processes train on cpu or cuda, not on mps; unset NERVESEG_DEVICES.")
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = cluster.main_address, str(cluster.main_port)
    distributed.init_process_group(backend, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield World(rank, size, local, cluster)
    except NervesegError as error:
        console.quiet = not _says_first(str(error))
        raise
    except RuntimeError as error:
        end_if_lost(error)
        raise
    finally:
        distributed.destroy_process_group()


def _says_first(message: str) -> bool:
    """Whether no other process has said so yet."""
    try:
        return int(distributed.distributed_c10d._get_default_store().add(f"said {message}", 1)) == 1
    except RuntimeError:  # the process with the store has ended
        return True


def end_if_lost(error: Exception) -> None:
    """Raises SystemExit with status 1 if `error` is that of an exchange with a process that has ended."""
    if isinstance(error, distributed.DistError) or "gloo" in str(error):
        console.print("the training ends, because another of its processes has ended, which says why")
        raise SystemExit(1) from error


def _end_with_launcher() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def launch(module: str, devices: int, nodes: int) -> None:
    """Runs a module in a process per device, on this node, or in a SLURM allocation on all of its nodes.

    Returns when all have ended. Once one fails, the others are ended; all end with this process, however it ends.

    Args:
        devices: processes per node.
        nodes: outside SLURM, this runs on each of them, with MASTER_ADDR and NODE_RANK.

    Raises:
        NervesegError: there are several nodes, and no word of where they are.
        ProcessError: a process was killed.
        SystemExit: one failed, with its status; or after a signal, with its status.
    """
    command = (sys.executable, "-m", module)
    if nodes > 1 and "SLURM_JOB_ID" in os.environ:
        _become_srun(command, devices, nodes)
    if nodes > 1 and not {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys():
        raise NervesegError(
            f"NERVESEG_NODES is {nodes}, but this is no SLURM allocation, and MASTER_ADDR and NODE_RANK are not set. "
            "Set them on each node: the address of the first node, and the node's number, from 0."
        )
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # the processes say what is wrong
    where: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    if nodes > 1:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', '29500')}"
        place = {"rank": int(os.environ["NODE_RANK"]), "timeout": int(TIMEOUT.total_seconds())}
        where = {"rdzv_backend": "static", "rdzv_endpoint": address, "rdzv_configs": place}
    config = LaunchConfig(nodes, nodes, devices, run_id=_RUN, max_restarts=0, shutdown_timeout=GRACE, **where)
    reading, _writing = os.pipe()  # closed by the end of this process
    os.dup2(reading, 0)
    try:
        elastic_launch(config, command[0])(*command[1:])
    except SignalException as ended:
        raise SystemExit(128 + int(ended.sigval)) from None
    except ChildFailedError as failed:
        # Where one was killed, the others fail for that reason; where one failed, the others are ended by SIGTERM.
        exits = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        rank = min(exits, key=lambda rank: (exits[rank] == -signal.SIGTERM, exits[rank] >= 0))
        if exits[rank] in range(256):
            raise SystemExit(exits[rank]) from None
        number = -exits[rank]
        if number == signal.SIGTERM:
            raise SystemExit(128 + number) from None
        raise ProcessError(
            f"Process {rank} was killed by {signal.Signals(number).name}, so the others were ended. SIGKILL is what a "
            "machine without free memory sends. Running again resumes the training.",
            128 + number,
        ) from None


def _become_srun(command: tuple[str, ...], devices: int, nodes: int) -> None:
    """Replaces this process by SLURM's own launcher, which passes signals on and ends all where one fails."""
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")  # which srun no longer reads
    options = (f"--nodes={nodes}", f"--ntasks-per-node={devices}", *([f"--cpus-per-task={cpus}"] if cpus else []))
    console.print(f"training on {nodes} nodes, {devices} processes each, by srun")
    os.execvp("srun", ("srun", "--kill-on-bad-exit=1", *options, *command))  # noqa: S606  # no shell is wanted
