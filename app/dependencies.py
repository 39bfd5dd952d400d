"""What routes ask for, in one place."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from app.engine.engine import Engine
from app.intake import ImageLimits
from app.settings import Settings


def get_engine(request: Request) -> Engine:
    """The engine of this app."""
    return cast(Engine, request.app.state.engine)


def get_settings(request: Request) -> Settings:
    """The settings of this app."""
    return cast(Settings, request.app.state.settings)


def image_limits(settings: Settings) -> ImageLimits:
    """The part of the settings that concerns images."""
    return ImageLimits(settings.image_bytes, settings.image_pixels, settings.image_side, settings.image_min_side)


EngineDep = Annotated[Engine, Depends(get_engine)]
SettingsDep = Annotated[Settings, Depends(get_settings)]
