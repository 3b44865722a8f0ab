"""The view over noise levels: which maps it offers, where it stands, what it orders."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from dashboard_synthetic import SIGMAS, SyntheticRuns

from diffviews.errors import RunNotFoundError
from diffviews.processing.map_parameters import MapParameters
