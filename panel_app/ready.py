"""What every visitor needs, loaded before the first one comes: `panel serve --setup ready.py app.py`."""

import panel_app.dashboard  # noqa: F401
from panel_app.shared import compile_drawing

compile_drawing()
