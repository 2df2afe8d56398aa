"""Makes a virtual environment with vmdns in it, from this checkout: environment.py FOLDER [EXTRA].

For tools/setup, and for tools/run.ps1 and tools/test.ps1 on Windows. Installs again only after something that decides
what is installed has changed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def main(folder: str, extra: str = "") -> None:
    """Raises subprocess.CalledProcessError where Python or pip fails; they say why."""
    if sys.version_info < (3, 11):  # noqa: UP036 - it runs before pip checks
        sys.exit(f"vmdns needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    venv = Path(folder).absolute()
    programs = venv / ("Scripts" if sys.platform == "win32" else "bin")
    if not any(programs.glob("pip*")):
        print(f"making a virtual environment in {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    decisive = [(HERE / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "vmdns/__init__.py")]
    stamp, wanted = venv / f".vmdns-{extra}", "\n".join([str(HERE), *decisive])
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing vmdns into {folder}", file=sys.stderr)
        pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--editable", f"{HERE}[{extra}]" if extra else str(HERE)], check=True)
        stamp.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
