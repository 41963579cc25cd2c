"""The versions of models: found, loaded, served and unloaded, without losing a request."""

import contextlib
import enum
import functools
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tfgan_mnist.exports import session, warmup
from tfgan_mnist.exports.request_errors import RequestError, invalid
from tfgan_mnist.exports.versions import versions
from tfgan_mnist.serving.batching import Batcher, Tensors
from tfgan_mnist.serving.settings import ModelConfig

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
    """A version of a model: found, then loaded, and at the end unloaded or failed."""

    def __init__(self, model: str, number: int, folder: Path):
        self.model = model
        self.number = number
        self.folder = folder
        self.state = State.START
        self.error = ""  # why it could not be loaded
        self.signatures: dict[str, Any] = {}  # name -> SignatureDef
        self._changed = 0.0  # when its folder was, before it was loaded
        self._saved_model: Any = None  # a SavedModel, while it is loaded
        self._batchers: dict[str, Batcher] = {}
        self._users = 0
        self._unused = threading.Condition()

    def load(self, batches: bool = True, warm_up: bool = True) -> None:
        """Loads and warms the version. Its state is then AVAILABLE, or END with `error` set."""
        self.state = State.LOADING
        try:
            self._changed = self.folder.stat().st_mtime
            self._saved_model = session.SavedModel(self.folder)
            self.signatures = self._saved_model.signatures
            for signature, inputs in warmup.read(self.folder) if warm_up else ():
                session.check(self.inputs(signature), inputs)
                self._saved_model.run(signature, inputs)
            self._batchers = {
                name: Batcher(functools.partial(self._saved_model.run, name), batches)
                for name in self._saved_model.specs
            }
        except Exception as error:  # the other versions are still served
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

    def may_load(self, folder: Path) -> bool:
        """Whether it did not fail, or its folder has changed since."""
        return not self.error or folder.stat().st_mtime != self._changed

    def inputs(self, signature: str) -> dict[str, Any]:
        """Input name -> TensorSpec, of a signature.

        Raises:
          RequestError: there is no such signature with inputs.
        """
        if signature not in self._saved_model.specs:
            message = f'Serving signature name: "{signature}" not found in signature def'
            raise RequestError("FAILED_PRECONDITION", message)
        return self._saved_model.specs[signature]

    def submit(self, signature: str, inputs: Tensors) -> Future:
        """A future of the outputs by name.

        Raises:
          RequestError: the inputs do not match the signature, or too many requests wait.
        """
        session.check(self.inputs(signature), inputs)
        return self._batchers[signature].submit(inputs)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[bool]:
        """Keeps the version loaded inside the `with` block; False if it is not available."""
        with self._unused:
            available = self.state is State.AVAILABLE
            self._users += available
        try:
            yield available
        finally:
            with self._unused:
                self._users -= available
                self._unused.notify_all()

    def retire(self) -> None:
        """Accepts no more requests, completes pending ones, and unloads."""
        with self._unused:
            if self.state is not State.AVAILABLE:
                return
            self.state = State.UNLOADING
            self._unused.wait_for(lambda: self._users == 0)
        self._unload()
        self.state = State.END
        log.info("%s version %d is unloaded", self.model, self.number)


class Model:
    """A model: the versions that its configuration asks for."""

    def __init__(self, config: ModelConfig, batches: bool, warm_up: bool):
        self.name = config.name
        self._config = config
        self._loading = (batches, warm_up)
        self.versions: dict[int, Version] = {}  # also unloaded and failed ones

    def poll(self) -> None:
        """Loads new versions, then unloads those that are no longer to be served.

        A broken version does not replace a good one. When all folders of versions were deleted, all
        are unloaded; when the base path itself is missing, as a lost disk is, all stay.
        """
        if not self._config.base_path.is_dir():
            return
        found = versions(self._config.base_path)
        aspired = self._config.aspired(set(found))
        for number in sorted(aspired):
            known = self.versions.get(number)
            if known is None or (known.state is State.END and known.may_load(found[number])):
                version = Version(self.name, number, found[number])
                # A new dictionary, as other threads may be reading the present one.
                self.versions = {**self.versions, number: version}
                version.load(*self._loading)
        available = (self.versions[number].state is State.AVAILABLE for number in aspired)
        if not aspired or any(available):
            for number, version in self.versions.items():
                if number not in aspired and version.state is State.AVAILABLE:
                    # In a thread, as it waits for requests while other models are polled.
                    threading.Thread(target=version.retire, daemon=True).start()

    def number(self, number: int | None, label: str | None) -> int | None:
        """The number that a label stands for, or else `number`."""
        if label is None:
            return number
        if label not in self._config.labels:
            raise invalid(f"Unrecognized servable version label: {label}")
        return self._config.labels[label]


class Models(dict[str, Model]):
    """All models by name, and the thread that looks for new versions."""

    def __init__(self, configs: list[ModelConfig], batches: bool = True, warm_up: bool = True):
        super().__init__({config.name: Model(config, batches, warm_up) for config in configs})
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, poll_seconds: float) -> None:
        """Loads the versions that exist, then looks for new ones until `stop`."""
        self.poll()
        self._thread = threading.Thread(target=self._keep_polling, args=[poll_seconds], daemon=True)
        self._thread.start()

    def poll(self) -> None:
        """Looks for new versions of all models once."""
        for model in self.values():
            try:
                model.poll()
            except Exception:  # such as an unreachable disk, which may come back
                log.exception("%s: cannot look for versions", model.name)

    def _keep_polling(self, seconds: float) -> None:
        while not self._stopped.wait(seconds):
            self.poll()

    def stop(self) -> None:
        """Completes pending requests and unloads all models."""
        self._stopped.set()
        if self._thread:
            self._thread.join()
        for model in self.values():
            for version in model.versions.values():
                version.retire()

    def find(self, name: str, number: int | None = None, label: str | None = None) -> Version:
        """The available version of a number or label, else the highest.

        Raises:
          RequestError: there is none.
        """
        available: dict[int, Version] = {}
        if name in self:
            number = self[name].number(number, label)
            items = self[name].versions.items()
            available = {n: version for n, version in items if version.state is State.AVAILABLE}
        wanted = max(available, default=None) if number is None else number
        if wanted not in available:
            which = f"Latest({name})" if number is None else f"Specific({name}, {number})"
            raise RequestError("NOT_FOUND", f"Servable not found for request: {which}")
        return available[wanted]

    @contextlib.contextmanager
    def use(
        self, name: str, number: int | None = None, label: str | None = None
    ) -> Iterator[Version]:
        """The version of `find`, which stays loaded inside the `with` block."""
        while True:
            with (version := self.find(name, number, label)).in_use() as available:
                if available:
                    yield version
                    return
            # Unloaded since it was found: now there is a newer one, or none.

    def statuses(self, name: str, number: int | None, label: str | None) -> list[Version]:
        """All versions of a model, highest first, or the one of the number or label.

        Raises:
          RequestError: there is none.
        """
        known = self[name].versions if name in self else {}
        number = self[name].number(number, label) if name in self else None
        found = [known[n] for n in sorted(known, reverse=True) if number in (None, n)]
        if not found:
            which = "any versions" if number is None else f"version {number}"
            raise RequestError("NOT_FOUND", f"Could not find {which} of model {name}")
        return found
