"""Record with several processes, on this machine or a cluster of them, through Ray Core.

>>> with ExitStack() as stack:
...     def workers(fingerprint):
...         pool = RayWorkers(load, recording, fingerprint, count=2)
...         return stack.enter_context(pool)
...     record(models, recording, prompts, domains, cache, workers=workers)
"""

import os
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch

from adaspec_rl.recording.recorder import Job, Models, Recording, ShardRecorder


class RayWorkers:
    """Runs jobs in `count` Ray actors; each loads the models itself and fetches the next job.

    Actors start with the first job and stop with `close`; so does Ray if it was started here. With
    as many threads as this process, they make exactly the bytes that this process would make.
    """

    def __init__(
        self,
        load: Callable[[], Models],
        recording: Recording,
        fingerprint: str,
        *,
        count: int,
        threads: int | None = None,
        device: str = "cpu",
        ordered: bool = False,
    ) -> None:
        """`load` runs in each actor and must be picklable.

        Args:
            threads: PyTorch threads in each actor; None: as many as here.
            device: if it is a CUDA device, each actor takes a whole GPU.
            ordered: yield results in the order of the jobs; otherwise as they finish.

        Raises:
            ValueError: Ray is not installed, or `count` is below 1.
        """
        if count < 1:
            raise ValueError(f"replay.workers must be at least 1, got {count}")
        self._ray = _ray(count)
        self.count, self.ordered = count, ordered
        self.threads = threads or torch.get_num_threads()
        self.gpus = 1 if torch.device(device).type == "cuda" else 0
        self._arguments = (load, recording, fingerprint, self.threads)
        self._actors: list[Any] = []
        self._started_ray = False

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, object]]:
        """Yield `(number of the job, result)`.

        Raises:
            ValueError: a job failed, an actor died, or there are too few CPUs or GPUs.
        """
        if not jobs:
            return
        self._start()
        waiting = iter(enumerate(jobs))
        running: dict[Any, tuple[int, Any]] = {}  # by reference to the result
        for actor, (number, job) in zip(self._actors, waiting):
            running[actor.run.remote(job)] = number, actor
        done: dict[int, object] = {}
        following = 0
        while running:
            (reference,), _ = self._ray.wait(list(running), num_returns=1)
            number, actor = running.pop(reference)
            done[number] = self._result(reference)
            if (more := next(waiting, None)) is not None:
                running[actor.run.remote(more[1])] = more[0], actor
            for ready in sorted(done):
                if self.ordered and ready != following:
                    break
                following += 1
                yield ready, done.pop(ready)

    def close(self) -> None:
        """Stop the actors, and Ray if it was started here."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._started_ray:
            self._ray.shutdown()
            self._started_ray = False

    def __enter__(self) -> "RayWorkers":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self) -> None:
        if self._actors:
            return
        if not self._ray.is_initialized():
            known = "RAY_ADDRESS" in os.environ  # a cluster, which has a fixed number of CPUs
            cpus = None if known else max(os.cpu_count() or 1, self.count * self.threads)
            self._ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False)
            self._started_ray = True
        self._check_room()
        remote = self._ray.remote(num_cpus=self.threads, num_gpus=self.gpus)(_Worker)
        self._actors = [remote.remote(*self._arguments) for _ in range(self.count)]

    def _check_room(self) -> None:
        """Refuse what Ray lacks, as Ray would wait for it forever."""
        found = self._ray.cluster_resources()
        for what, each in (("CPU", self.threads), ("GPU", self.gpus)):
            if found.get(what, 0) < self.count * each:
                self.close()
                raise ValueError(
                    f"replay.workers={self.count} needs {self.count * each} {what}s but Ray has "
                    f"{found.get(what, 0):g}: set replay.workers lower"
                )

    def _result(self, reference: Any) -> object:
        try:
            result = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(
                f"a replay worker died ({first}); what was recorded so far is kept, so run the "
                "same command again, with fewer replay.workers if memory ran out"
            ) from None
        if isinstance(result, _Failure):
            raise ValueError(f"a replay worker failed: {result.message}")
        return result


class _Failure:
    """An error in an actor, as text: exceptions themselves may not be picklable."""

    def __init__(self, error: Exception) -> None:
        name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        self.message = f"{name}{error}"


class _Worker:
    """The code of one actor."""

    def __init__(
        self, load: Callable[[], Models], recording: Recording, fingerprint: str, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        self._load, self._arguments = load, (recording, fingerprint)
        self._recorder: ShardRecorder | None = None

    def run(self, job: Job) -> object:
        """The job's result, or a `_Failure`."""
        try:
            if self._recorder is None:
                self._recorder = ShardRecorder(self._load(), *self._arguments)
            return getattr(self._recorder, job.method)(*job.arguments)
        except Exception as error:
            return _Failure(error)


def _ray(count: int) -> ModuleType:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise ValueError(
            f'replay.workers={count} needs Ray: pip install "adaspec_rl[cluster]", '
            "or set replay.workers=1"
        ) from None
    return ray
