"""Under test the package is imported with its annotations checked at every call: types and shapes.

Only here: the package itself never imports a type checker.
"""

import sys

import pytest
from jaxtyping import config, install_import_hook

PLUGIN = "s4s_nb.course.nbval_rules"
# It comes first and has imported the package unchecked: all but itself is imported anew. (pytest would not
# take a hook that is wrapped to be checked.)
for module in [name for name in sys.modules if name.split(".")[0] == "s4s_nb" and name != PLUGIN]:
    del sys.modules[module]
install_import_hook("s4s_nb", "beartype.beartype")


@pytest.fixture
def unchecked(monkeypatch):
    """For tests of what the package itself says about arguments that break their annotation."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)
