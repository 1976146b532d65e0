"""A Python with the packages of one peer, made when it is first asked for and kept for the next run."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

FOLDER = Path.home() / ".cache" / "dspy-demo-benchmarks"


def python_with(name: str, requirements: tuple[str, ...], *, shared: bool = True) -> str:
    """The interpreter of the virtual environment `name`.

    Args:
        shared: See the packages of this environment too, so that only what is missing is installed; without
            it the environment is empty, for a peer whose dependencies clash with ours.

    Raises:
        subprocess.CalledProcessError: pip could not install them.
    """
    if not requirements:
        return sys.executable
    folder = FOLDER / name
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(requirements)
    if not done.exists() or done.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        if shared:
            own = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})["purelib"]
            Path(own, "shared.pth").write_text(sysconfig.get_paths()["purelib"])
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text(wanted)
    return str(python)
