"""When processes of a server look for garbage: the template never, those that serve seldom."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kshot_server.template_imports import IN_TEMPLATE


@pytest.mark.parametrize("in_template", [True, False])
def test_only_the_template_imports_without_looking(in_template: bool) -> None:
    program = (
        "import gc, os, kshot_server.template_imports as first\n"
        "print(gc.isenabled(), first.IN_TEMPLATE in os.environ)\n"
        "from kshot_server.garbage import look_for_garbage_seldom\n"
        "before = gc.get_threshold()[0]\n"
        "look_for_garbage_seldom()\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 0, gc.get_threshold()[0] > before)\n"
    )
    environment = {**os.environ, **({IN_TEMPLATE: "1"} if in_template else {})}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(not in_template), "False", "True", "True", "True"]
