"""Every bad input of the tests with the error it gets: python tools/bad_inputs.py."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from bad_inputs import bad_inputs


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print("| what is wrong | exit | what hqp says |\n|---|---|---|")
        for wrong, arguments, _ in bad_inputs(Path(folder)):
            command = [sys.executable, "-m", "hqp_onnx", *arguments]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            said = ended.stderr.strip().replace(folder, "DIR").replace("|", "\\|")
            print(f"| {wrong} | {ended.returncode} | {said} |", flush=True)


if __name__ == "__main__":
    main()
