"""Names that callers give their images: ``uuid`` beside an ``image_url``, as vLLM has it."""

from __future__ import annotations

from collections import OrderedDict

LONGEST_NAME = 256  # characters


class ImageNames:
    """The latest ``capacity`` names, each its caller's own, and the ids of the images that they stand for. Whether an
    image is still kept, the engine knows."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._ids: OrderedDict[tuple[str, str], str] = OrderedDict()

    def get(self, caller: str, name: str) -> str | None:
        """The id of the image of that name."""
        if (caller, name) not in self._ids:
            return None
        self._ids.move_to_end((caller, name))
        return self._ids[caller, name]

    def put(self, caller: str, name: str, image_id: str) -> None:
        """Give a name to an image; one that it had before is another's no longer."""
        self._ids[caller, name] = image_id
        self._ids.move_to_end((caller, name))
        if len(self._ids) > self._capacity:
            self._ids.popitem(last=False)
