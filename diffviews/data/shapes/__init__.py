"""Shapes: a world whose truth is known. Scenes by index, their pixels, their captions, and all as a sample source."""

from diffviews.data.shapes.captions import Asked, caption, parse
from diffviews.data.shapes.render import COLOURS, GROUNDS, Rendering, render
from diffviews.data.shapes.scene import FACTORS, OBJECT_FACTORS, Scenes, draw_scenes
from diffviews.data.shapes.source import factor_columns, scenes_of
