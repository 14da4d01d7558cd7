"""The command `fnlamp`, beside the package, so that it starts at once.

`import fnlamp` imports everything that is public, and JAX, which takes longer than to list thousands of runs. Here the packages
`fnlamp` and `fnlamp.experiment` are only given their folders, and each verb imports the files that it uses.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    for name in ("fnlamp", "fnlamp.experiment"):
        spec = None if name in sys.modules else find_spec(name)
        if spec is not None:
            sys.modules[name] = module_from_spec(spec)  # without running its __init__.py
    from fnlamp.experiment.command.main import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
