"""For tests of adapters: subclass `AdapterContract`, return an adapter from `make`, and run pytest.

    from diffviews.testing import AdapterContract

    class TestMine(AdapterContract):
        def make(self):
            return MyAdapter()
"""

import pytest

pytest.register_assert_rewrite(f"{__name__}.adapter_contract")

from diffviews.testing.adapter_contract import AdapterContract  # noqa: E402  # its asserts are rewritten from here on
