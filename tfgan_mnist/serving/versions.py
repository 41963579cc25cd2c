"""The versions of a model: found, loaded, served and retired, with none of their requests lost."""

import contextlib
import enum
import gc
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from tfgan_mnist.exports import session, warmup
from tfgan_mnist.exports.request_errors import RequestError, invalid
from tfgan_mnist.exports.versions import versions
from tfgan_mnist.serving.batching import Batcher, Tensors
from tfgan_mnist.serving.settings import Bounds, ModelConfig

log = logging.getLogger(__name__)

DEFAULT_SIGNATURE = "serving_default"


class State(enum.Enum):
    """Of a version, as TensorFlow Serving's ModelVersionStatus numbers them."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class Version:
    """A version: at first known of only, then loaded, and in the end unloaded or broken."""

    def __init__(self, model: str, number: int, folder: Path):
        self.model = model
        self.number = number
        self.folder = folder
        self.state = State.START
        self.error = ""  # why it could not be loaded
        self.seen: object = None  # the files that could not be loaded
        self._saved_model: session.SavedModel | None = None
        self._batchers: dict[str, Batcher] = {}
        self._users = 0
        self._unused = threading.Condition()

    def load(self, bounds: Bounds | None, warm_up: bool) -> None:
        """Loads and warms the version. Ends as AVAILABLE, or as END with `error` set."""
        self.state = State.LOADING
        try:
            self.seen = _fingerprint(self.folder)
            model = self._saved_model = session.SavedModel(self.folder)
            if warm_up:
                for signature, inputs in warmup.read(self.folder):
                    session.check(self.inputs(signature), inputs)
                    outputs = tuple(sorted(self.signatures[signature].outputs))
                    model.run(signature, inputs, outputs)
            for name, definition in model.signatures.items():
                if definition.inputs:

                    def run(inputs: Tensors, outputs: tuple[str, ...], name=name) -> Tensors:
                        return model.run(name, inputs, outputs)

                    threads = f"{self.model}-{self.number}-{name}"
                    self._batchers[name] = Batcher(run, bounds, threads)
        except Exception as error:  # whatever it is, the other versions are served on
            self._unload()
            self.state, self.error = State.END, f"{type(error).__name__}: {error}"[:1000]
            log.error("%s version %d cannot be served: %s", self.model, self.number, self.error)
            return
        self.state = State.AVAILABLE
        log.info("%s version %d is served", self.model, self.number)

    def _unload(self) -> None:
        for batcher in self._batchers.values():
            batcher.close()
        self._batchers.clear()
        if self._saved_model:
            self._saved_model.close()
            self._saved_model = None

    @property
    def signatures(self) -> dict:
        """Name -> SignatureDef."""
        assert self._saved_model
        return self._saved_model.signatures

    def inputs(self, signature: str) -> dict[str, session.Spec]:
        """Input name -> what it must be, of a signature.

        Raises:
          RequestError: there is no such signature.
        """
        assert self._saved_model
        if signature not in self._saved_model.specs:
            message = f'Serving signature name: "{signature}" not found in signature def'
            raise RequestError("FAILED_PRECONDITION", message)
        return self._saved_model.specs[signature]

    def submit(self, signature: str, inputs: Tensors, outputs: tuple[str, ...] = ()) -> Future:
        """A future of the outputs by name; all of them when none is named.

        Raises:
          RequestError: the inputs are not those of the signature, or too many wait already.
        """
        wanted = self.inputs(signature)
        if not wanted:
            raise invalid(f"Failed to get input map for signature: {signature}")
        session.check(wanted, inputs)
        names = outputs or tuple(sorted(self.signatures[signature].outputs))
        return self._batchers[signature].submit(inputs, names)

    def acquire(self) -> bool:
        """Keeps the version loaded until `release`; False when it is too late for that."""
        with self._unused:
            if self.state is not State.AVAILABLE:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        with self._unused:
            self._users -= 1
            self._unused.notify_all()

    def retire(self) -> None:
        """Takes no more requests, answers those that it has, and unloads."""
        with self._unused:
            if self.state is not State.AVAILABLE:
                return
            self.state = State.UNLOADING
            self._unused.wait_for(lambda: self._users == 0)
        self._unload()
        self.state = State.END
        log.info("%s version %d is unloaded", self.model, self.number)


class Model:
    """A model under its name: those of its versions that its configuration asks for."""

    def __init__(self, config: ModelConfig, bounds: Bounds | None, warm_up: bool):
        self.name = config.name
        self._config = config
        self._bounds = bounds
        self._warm_up = warm_up
        self.versions: dict[int, Version] = {}  # all that were ever to be served

    def poll(self) -> None:
        """Looks for versions; loads what is new, then retires what is to be served no more.

        While nothing that is to be served is available, what was before stays: a broken version
        does not take the place of a good one.
        """
        found = versions(self._config.base_path)
        aspired = self._config.aspired(set(found))
        for number in sorted(aspired):
            known = self.versions.get(number)
            if known is None or _is_to_be_loaded_again(known, found[number]):
                version = Version(self.name, number, found[number])
                # A new dictionary, as others may be reading the present one.
                self.versions = {**self.versions, number: version}
                version.load(self._bounds, self._warm_up)
        if any(self.versions[number].state is State.AVAILABLE for number in aspired):
            for number, version in self.versions.items():
                if number not in aspired and version.state is State.AVAILABLE:
                    # Not here: it waits for requests, and other models are to be looked after.
                    threading.Thread(target=_retire, args=[version], daemon=True).start()

    def find(self, number: int | None = None, label: str | None = None) -> Version:
        """An available version: that of the number or label, else the highest.

        Raises:
          RequestError: there is none.
        """
        if label is not None:
            number = self.number_of(label)
        if number is not None:
            version = self.versions.get(number)
            if version is None or version.state is not State.AVAILABLE:
                raise RequestError(
                    "NOT_FOUND", f"Servable not found for request: Specific({self.name}, {number})"
                )
            return version
        available = [v for v in self.versions.values() if v.state is State.AVAILABLE]
        if not available:
            raise RequestError("NOT_FOUND", f"Servable not found for request: Latest({self.name})")
        return max(available, key=lambda version: version.number)

    def number_of(self, label: str) -> int:
        if label not in self._config.labels:
            raise invalid(f"Unrecognized servable version label: {label}")
        return self._config.labels[label]

    def statuses(self, number: int | None = None, label: str | None = None) -> list[Version]:
        """All versions, highest first, or the one of the number or label.

        Raises:
          RequestError: there is none.
        """
        if label is not None:
            number = self.number_of(label)
        if number is None and self.versions:
            return sorted(self.versions.values(), key=lambda version: -version.number)
        if number is None:
            raise RequestError("NOT_FOUND", f"Could not find any versions of model {self.name}")
        if number not in self.versions:
            raise RequestError("NOT_FOUND", f"Could not find version {number} of model {self.name}")
        return [self.versions[number]]

    def retire(self) -> None:
        for version in self.versions.values():
            version.retire()


class Models:
    """All models by name, and the thread that looks for their versions.

    Args:
      configs: of the models.
      bounds: of batches; None: no batches.
      warm_up: replay the requests that a version brings before it is served.
    """

    def __init__(self, configs: list[ModelConfig], bounds: Bounds | None, warm_up: bool = True):
        self._models = {config.name: Model(config, bounds, warm_up) for config in configs}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, poll_seconds: float) -> None:
        """Loads what is there, then looks for new versions until `stop`."""
        self.poll()
        self._thread = threading.Thread(
            target=self._keep_polling, args=[poll_seconds], name="poll", daemon=True
        )
        self._thread.start()

    def poll(self) -> None:
        for model in self._models.values():
            try:
                model.poll()
            except Exception:  # an unreachable disk, say, which may come back
                log.exception("%s: cannot look for versions", model.name)

    def _keep_polling(self, seconds: float) -> None:
        while not self._stopped.wait(seconds):
            self.poll()

    def stop(self) -> None:
        """Unloads everything once its requests are answered."""
        self._stopped.set()
        if self._thread:
            self._thread.join()
        for model in self._models.values():
            model.retire()

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    @contextlib.contextmanager
    def use(
        self, name: str, number: int | None = None, label: str | None = None
    ) -> Iterator[Version]:
        """An available version of a model, which stays loaded inside.

        Raises:
          RequestError: there is none.
        """
        while not (version := self._find(name, number, label)).acquire():
            pass  # retired since it was found, so that there is a newer one now, or none
        try:
            yield version
        finally:
            version.release()

    def _find(self, name: str, number: int | None, label: str | None) -> Version:
        if name not in self._models:
            which = f"Latest({name})" if number is None else f"Specific({name}, {number})"
            raise RequestError("NOT_FOUND", f"Servable not found for request: {which}")
        return self._models[name].find(number, label)

    def statuses(self, name: str, number: int | None = None, label: str | None = None):
        """Versions of a model, whatever their state; see `Model.statuses`."""
        if name not in self._models:
            raise RequestError("NOT_FOUND", f"Could not find any versions of model {name}")
        return self._models[name].statuses(number, label)


def _retire(version: Version) -> None:
    version.retire()
    # A graph is full of cycles: without this, 20 swaps of a 2 MB model leave 50 MB for later.
    gc.collect()


def _is_to_be_loaded_again(version: Version, folder: Path) -> bool:
    """Whether it was unloaded, or was broken and its files have changed since."""
    return version.state is State.END and (
        not version.error or version.seen != _fingerprint(folder)
    )


def _fingerprint(folder: Path) -> list[tuple[str, int, int]]:
    """Changes when files in the folder do."""
    found = []
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(OSError):  # gone since it was found
            stat = path.stat()
            found.append((str(path), stat.st_mtime_ns, stat.st_size))
    return found
