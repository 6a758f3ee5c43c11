"""Under test the package is imported with its annotations checked at every call: types and shapes.

Only here: the package itself never imports a type checker.
"""

import pytest
from jaxtyping import config, install_import_hook

install_import_hook("s4s_nb", "beartype.beartype")


@pytest.fixture
def unchecked(monkeypatch):
    """For tests of what the package itself says about arguments that break their annotation."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)
