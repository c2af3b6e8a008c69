"""What `import bilevel` loads."""

import subprocess
import sys


def test_import_loads_nothing_of_the_experiments():
    heavy = ("sklearn", "matplotlib", "pandas", "typer", "rich", "bilevel.tasks", "bilevel.compare")
    code = f"import bilevel, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
