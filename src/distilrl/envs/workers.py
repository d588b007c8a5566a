"""Environments in processes of their own: they step while the learner learns, and answer as in this process.

Each worker holds a part of them in a `SyncVecEnv`, so that the results are equal to the bit.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from distilrl.envs.interface import EnvInfo, Step, VecEnv
from distilrl.envs.single import FAULTS
from distilrl.envs.sync import SyncVecEnv, check_count
from distilrl.errors import DistilError, EnvError, again
from distilrl.spaces import EnvRef
from distilrl.starting import RemoteTraceback, fresh_context, start
from distilrl.text import first_line, raised

SECONDS_TO_END = 5.0
"""How long a worker may take to close its environments before it is ended."""


class WorkerVecEnv(VecEnv):
    """N environments in K processes.

    Args:
        ref: what to make; a function that makes it must be one that pickle can name.
        spec: what is registered under its id; None for a function.
        n_envs: number of copies N.
        workers: number of processes K; no more than N are started.
        pictures: they will be drawn.
        measured: keys of an ``info`` that are read.

    Raises:
        EnvError: they cannot be made or used, or not in another process.
    """

    def __init__(
        self,
        ref: EnvRef,
        spec: EnvSpec | None,
        n_envs: int,
        workers: int,
        pictures: bool = False,
        measured: tuple[str, ...] = (),
    ) -> None:
        self.n_envs, self._label = n_envs, ref.label
        self._parts = [
            slice(int(p[0]), int(p[-1]) + 1) for p in np.array_split(np.arange(n_envs), min(workers, n_envs))
        ]
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        context = fresh_context([__name__])
        try:
            for part in self._parts:  # all start at once, and are heard one after the other
                ours, theirs = context.Pipe()
                self._pipes.append(ours)
                process = context.Process(target=_serve, args=(theirs,), daemon=True)  # type: ignore[attr-defined]
                start(process, EnvError, "set workers=0")
                self._processes.append(process)
                theirs.close()
                self._introduce(ours, (replace(ref, named=True), spec, part.stop - part.start, pictures, measured))
            infos: list[EnvInfo] = self._hear()
        except BaseException:
            self.close()
            raise
        self.info = replace(infos[0], ref=ref)

    def reset(self, seeds: NDArray[np.int64]) -> NDArray[Any]:
        check_count("seeds", seeds, self.n_envs)
        self._tell([("reset", seeds[part]) for part in self._parts])
        return np.concatenate(self._hear())

    def send(self, actions: NDArray[Any], live: NDArray[np.bool_] | None = None) -> None:
        check_count("actions", actions, self.n_envs)
        self._tell([("step", actions[part], None if live is None else live[part]) for part in self._parts])

    def recv(self) -> Step:
        return Step(*(np.concatenate(arrays) for arrays in zip(*self._hear(), strict=True)))

    def picture(self, index: int) -> NDArray[np.uint8]:
        worker = next(k for k, part in enumerate(self._parts) if index < part.stop)
        self._tell([("picture", index - self._parts[worker].start)], [worker])
        image: NDArray[np.uint8] = self._hear([worker])[0]
        return image

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # a worker whose pipe is closed closes its environments and ends
        for process in self._processes:
            process.join(SECONDS_TO_END)
            if process.is_alive():
                process.kill()
                process.join()
        self._pipes, self._processes = [], []

    def _introduce(self, pipe: Connection, made: Any) -> None:
        """The first message, from which a worker makes its environments; modules are trusted by now."""
        try:
            pipe.send(made)
        except OSError:  # `_hear` says that it is dead
            pass
        except Exception as error:  # pickle's, of many kinds
            raise EnvError(
                f"Environment '{self._label}' cannot be sent to a worker process ({first_line(error)}): "
                "define what makes it at the top of a module, or set workers=0."
            ) from error

    def _tell(self, messages: list[Any], workers: list[int] | None = None) -> None:
        for k, message in zip(workers or range(len(self._pipes)), messages, strict=True):
            with contextlib.suppress(OSError):  # `_hear` says that it is dead
                self._pipes[k].send(message)

    def _hear(self, workers: list[int] | None = None) -> list[Any]:
        """The answers of all workers, or of some; all are heard before an error is raised: none is left in a pipe.

        Raises:
            DistilError: what a worker raised; or one died.
        """
        answers, errors = [], []
        for k in workers or range(len(self._pipes)):
            try:
                kind, answer, trace = self._pipes[k].recv()
            except (EOFError, OSError):
                kind, answer, trace = EnvError, self._died(k), ""
            if kind is None:
                answers.append(answer)
            else:
                errors.append((kind, answer, trace))
        if errors:
            kind, text, trace = errors[0]
            raise again(kind, text) from (RemoteTraceback(f"\n{trace}") if trace else None)
        return answers

    def _died(self, k: int) -> str:
        process = self._processes[k]
        process.join(SECONDS_TO_END)
        return (
            f"Worker {k} of environment '{self._label}' died (exit code {process.exitcode}): set workers=0 to see why; "
            'a script that is run needs if __name__ == "__main__": around what it does.'
        )


def _end_with_learner() -> None:
    """Ends this process when the one that began it dies, also where an environment does not come back."""
    learner = multiprocessing.parent_process()
    if learner is not None:
        learner.join()
        os._exit(1)


def _serve(pipe: Connection) -> None:
    """Makes a part of the environments and does what it is told, until the pipe is closed.

    Every answer is (None, answer, "") or (class of the error, its sentence, its traceback).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the learner, which then closes the pipe
    threading.Thread(target=_end_with_learner, daemon=True).start()
    envs: SyncVecEnv | None = None
    try:
        envs = _made(pipe)
        pipe.send((None, envs.info, ""))
        while True:
            name, *values = pipe.recv()
            try:
                answer: tuple[Any, Any, str] = (None, _do(envs, name, values), "")
            except DistilError as error:
                answer = (type(error), str(error), traceback.format_exc())
            pipe.send(answer)
    except (EOFError, OSError):
        pass
    except DistilError as error:
        pipe.send((type(error), str(error), traceback.format_exc()))
    finally:
        if envs is not None:
            envs.close()


def _made(pipe: Connection) -> SyncVecEnv:
    """The environments of this worker, of what the first message says."""
    try:
        ref, spec, count, pictures, measured = pipe.recv()
    except EOFError:
        raise
    except FAULTS as error:
        raise EnvError(
            f"The environment cannot be made in a worker process, which {raised(error)}: "
            "define what makes it in a module that can be imported, or set workers=0."
        ) from error
    return SyncVecEnv(ref, spec, count, pictures, measured)


def _do(envs: SyncVecEnv, name: str, values: list[Any]) -> Any:
    """The answer to a message."""
    if name == "step":
        envs.send(*values)
        return tuple(envs.recv())
    return envs.reset(*values) if name == "reset" else envs.picture(*values)
