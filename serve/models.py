"""The models that one replica answers with, by the name that a request gives."""

from collections.abc import Awaitable, Callable, Sequence

from serve.errors import ApiError
from serve.service import ModelService

Load = Callable[[str], Awaitable[ModelService]]


class Models:
    """The default model, which is there from the start, and others that are loaded when a request names them.

    Args:
        default: answers every request that names no model.
        name: of the default model.
        others: names of the other models.
        load: gives the service of one of the others, started; called for every request that names it.
    """

    def __init__(
        self, default: ModelService, *, name: str = "default", others: Sequence[str] = (), load: Load | None = None
    ) -> None:
        self.default, self.names = default, (name, *others)
        self._load = load

    @property
    def task(self) -> str:
        """Name of the task, which all models have."""
        return self.default.task.name

    async def service(self, name: str | None) -> ModelService:
        """The service of a name, the default one for None.

        Raises:
            ApiError: 404 for a name that is not served.
        """
        if name is None or name == self.names[0]:
            return self.default
        if name not in self.names or self._load is None:
            served = ", ".join(self.names)
            raise ApiError(404, f"no such model; models here: {served}", error_type="UnknownModel")
        return await self._load(name)

    async def start(self) -> None:
        """Starts the default model on the running event loop."""
        await self.default.start()

    async def close(self) -> None:
        """Stops the default model; who loads the others stops them."""
        await self.default.close()

    def info(self) -> dict[str, object]:
        """What is served: names, and the default model's revision, dtype and limits."""
        return {"model": self.names[0], "models": list(self.names), **self.default.info()}
