"""What every benchmark needs: child processes with their peak memory, and dated results."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SHARED = HERE.parent.parent / "shared" / "data"


def child(command: Sequence[str], **environment: str) -> dict[str, Any]:
    """Runs a command to its end: wall seconds, peak memory in bytes, output. Raises if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    return {
        "seconds": time.perf_counter() - start,
        "peak_bytes": usage.ru_maxrss * 1024,
        "output": output,
    }


def python(*arguments: str, **environment: str) -> dict[str, Any]:
    """Runs this Python with arguments, as :func:`child`."""
    return child([sys.executable, *arguments], **environment)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    flags = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = {line.split(":")[0].strip(): line.split(":", 1)[-1].strip() for line in lines}
        model, flags = found.get("model name", model), found.get("flags", "")
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    versions = {}
    for package in ("tensorflow", "tensorflow-cpu", "keras", "openvino", "ai-edge-litert", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "processor": model,
        "cores": os.cpu_count(),
        "instructions": [flag for flag in wanted if flag in flags.split()],
        "python": platform.python_version(),
        "versions": versions,
    }


def rows_of(path: Path | None) -> list[Any]:
    """What an earlier, stopped benchmark gave to :func:`add_row`; nothing without a file."""
    lines = path.read_text().splitlines() if path and path.exists() else []
    return [json.loads(line) for line in lines]


def add_row(path: Path | None, row: Any) -> None:
    """Prints a row, and appends it to a file if there is one."""
    line = json.dumps(row)
    print(line, flush=True)
    if path:
        with open(path, "a") as stream:
            stream.write(line + "\n")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of several runs."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table."""
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        cells = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(command: str, where: Mapping[str, Any]) -> str:
    """The line that says by which command, when and on what something was measured."""
    versions = "".join(f", {k} {v}" for k, v in where["versions"].items())
    return (
        f"`{command}`, {where['date']}, {where['cores']} cores of {where['processor']} "
        f"({', '.join(where['instructions'])}), Python {where['python']}{versions}."
    )


def record(
    name: str,
    command: str,
    rows: Sequence[Mapping[str, Any]],
    text: str = "",
    where: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    """Prints a table, and writes it with machine and date to ``results/NAME.{md,json}``.

    Args:
        name: of the files.
        command: that makes them.
        rows: of the table.
        text: what the page says below it.
        where: the machine; this one, today, by default.
        more: what the JSON holds besides.
    """
    where = where or machine()
    head = measured(command, where)
    page = "\n\n".join(part for part in (f"# {name}", head, table(rows), text) if part) + "\n"
    print(page)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(page)
    whole = {"command": command, "machine": where, "rows": list(rows), "text": text, **more}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=2) + "\n")
