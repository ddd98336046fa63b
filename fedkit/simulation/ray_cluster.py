"""The one place that imports Ray: a cluster that is started here or joined, actors in it, and how both end.

Whoever reaches a cluster's ports can run code on all of its machines. One that is started here listens on loopback and
asks for a token that it alone has; what guards another cluster is for whoever runs it to know.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fedkit.errors import FederationError
from fedkit.simulation.descendants import children, descendants, end
from fedkit.simulation.ray_environment import environment, handlers_kept, same_place, signals_held, store_bytes, token
from fedkit.simulation.ray_errors import last_line, refused
from fedkit.simulation.ray_folder import folder

OURS = (None, "local")
"""What ``federation.address`` says where Ray is to be started."""

_FREE_SECONDS = 2.0


class ActorLost(Exception):
    """An actor's process, or its machine, has gone."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        cpus: those that nothing has taken. nodes: its machines. address: HOST:PORT.
    """

    cpus: int
    nodes: int
    version: str
    address: str = ""

    def put(self, value: Any) -> Any:
        """A reference to a value, which then travels once to a machine.

        Raises:
            FederationError: FK553, it cannot be pickled.
        """
        import ray

        try:
            return ray.put(value)
        except ray.exceptions.RayError as error:
            raise FederationError(f"Ray has no room for what is trained: {last_line(error)}", code="FK553") from None
        except Exception as error:
            raise FederationError(
                f"federation=ray cannot carry what it was given to other processes: {last_line(error)}",
                code="FK553",
                remedy="define models at the top of a module or script, or set federation=local",
            ) from None

    def actor(self, kind: type, *arguments: Any) -> Any:
        """An actor with a processor of its own, which ends with this process; it starts meanwhile."""
        import ray

        return ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(kind).remote(*arguments)

    def has_room(self) -> bool:
        """Whether an actor could be had now."""
        return _free(1) >= 1

    def call(self, actor: Any, method: str, *arguments: Any) -> Any:
        """Begin a call; the reference to its result."""
        return getattr(actor, method).remote(*arguments)

    def ready(self, references: Sequence[Any], seconds: float) -> list[Any]:
        """Those whose result, or whose end, is there within so many seconds."""
        import ray

        return list(ray.wait(list(references), num_returns=1, timeout=seconds, fetch_local=False)[0])

    def get(self, reference: Any) -> Any:
        """A result; its arrays are read-only.

        Raises:
            ActorLost: its actor has gone; the text says what Ray knows of it.
        """
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayError as error:
            raise ActorLost(last_line(error)) from None

    def end(self, actor: Any) -> None:
        """Kill an actor."""
        import ray

        with suppress(Exception):
            ray.kill(actor)


def require_ray() -> None:
    """Refuse where Ray is not installed.

    Raises:
        FederationError: FK550.
    """
    if importlib.util.find_spec("ray") is None:
        raise FederationError(
            "federation=ray needs Ray, which is not installed", code="FK550", remedy="pip install 'fedkit[ray]'"
        )


def is_connected() -> bool:
    """Whether this process is connected to a cluster."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


@contextmanager
def connected(address: str | None, cpus: int, *, ours: bool = False) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts.

    Args:
        address: ``OURS``: one that is started on this machine; ``auto`` or HOST:PORT: one that runs. Where this
            process is connected to one already, that one, which is left as it was found.
        cpus: of one that is started; of any other, as many as are waited for while what ended just now gives them back.
        ours: one that another process of this one's started so, on loopback.

    Raises:
        FederationError: FK551, FK552: see :func:`fedkit.simulation.ray_probe.check`; FK554, Ray cannot be started.

    Guarantee: however the block ends, no process of a cluster that it started is left. Neither usage statistics nor
    dashboard nor any port but on loopback, if it was started here.
    """
    # Else it prints what becomes of actors where a command prints its result; it reads this as it is imported.
    with environment({"RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_SCHEDULER_EVENTS": "0"}):
        import ray

    with ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(handlers_kept())
            if ours:
                stack.enter_context(_on_loopback())
            stack.enter_context(_started(cpus) if address in OURS else _joined(str(address)))
        elif ":" in str(address) and not same_place(str(address), at := str(ray.get_runtime_context().gcs_address)):
            raise FederationError(
                f"this process is connected to the Ray at {at} already",
                code="FK551",
                remedy="call ray.shutdown() first, or set federation.address=auto",
            )
        nodes = len([node for node in ray.nodes() if node.get("Alive")])
        yield Cluster(_free(cpus), nodes, str(ray.__version__), str(ray.get_runtime_context().gcs_address))


def _free(enough: int) -> int:
    """CPUs that nothing has taken. A cluster hears of actors that have ended a while later."""
    import ray

    deadline = time.monotonic() + _FREE_SECONDS
    while (free := ray.available_resources().get("CPU", 0.0)) < min(enough, ray.cluster_resources().get("CPU", 0.0)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return int(free)


@contextmanager
def _started(cpus: int) -> Iterator[None]:
    import ray

    before, started = children(), set[int]()
    stack = ExitStack()
    try:
        # A Ray that is half started ends the process, and nobody removes a folder that is half made.
        with signals_held():
            home = stack.enter_context(folder())
            asks = {"RAY_AUTH_TOKEN": token(), "RAY_USAGE_STATS_ENABLED": "0"}
            stack.enter_context(environment(asks, ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")))
            stack.enter_context(_on_loopback())
            stack.callback(lambda: end(started | descendants(children() - before)))
            stack.callback(ray.shutdown)
            # Before it is asked to leave: whose parent has gone is nobody's descendant.
            stack.callback(lambda: started.update(descendants(children() - before)))
            try:
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    num_gpus=0,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=store_bytes(),
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(home / "ray"),
                )
            except Exception as error:
                raise FederationError(
                    f"Ray could not be started: {last_line(error)}", code="FK554", remedy="set federation=local"
                ) from None
            _require_closed(str(ray.get_runtime_context().gcs_address))
        yield
    finally:
        with signals_held():
            stack.close()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """What says so for other systems: no port is for other machines, nor sought at another address."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _require_closed(address: str) -> None:
    if address.startswith("127.0.0.1:") and os.environ.get("RAY_AUTH_MODE") == "token":
        return
    raise FederationError(
        f"this Ray listens at {address} to more than this machine, or asks for no token",
        code="FK554",
        remedy="install the Ray that fedkit[ray] names, or set federation=local",
    )


@contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray

    try:
        _join(address)
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise refused(address, error, ray.__version__) from None


def answer(address: str) -> None:
    """Join a cluster, print whether that can be done as JSON, and leave: for a process that may be killed over it."""
    import ray

    try:
        _join(address)
    except FederationError as error:
        print(json.dumps({"code": error.code, "message": error.message, "remedy": error.remedy}))  # noqa: T201
        return
    print(json.dumps({"ray": ray.__version__, "cpus": _free(sys.maxsize)}))  # noqa: T201
    ray.shutdown()
