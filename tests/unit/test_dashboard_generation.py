"""The generation form: whose average masks, what it refuses before ordering, and recipes loaded back into it."""

import shlex
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffviews.errors import ConfigError
from diffviews.recipes import GenerationRecipe, Sampling
from diffviews.recipes.options import options_of
