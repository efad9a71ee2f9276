"""Energy of a stretch of work where the machine has a meter: NVML on a GPU, RAPL on a CPU."""

from __future__ import annotations

from pathlib import Path

_RAPL = Path("/sys/class/powercap")


class EnergyMeter:
    """Joules since it was made; of the whole GPU or CPU package, other work included."""

    def __init__(self) -> None:
        self._start = _read()

    def joules(self) -> float | None:
        """None where no meter can be read, or where it has wrapped around."""
        now = _read()
        if self._start is None or now is None or now < self._start:
            return None
        return round(now - self._start, 1)


def _read() -> float | None:
    gpu = _nvml()
    return gpu if gpu is not None else _rapl()


def _nvml() -> float | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except Exception:  # not installed, no GPU, or a GPU without this counter: several error classes
        return None


def _rapl() -> float | None:
    packages = [p for p in _RAPL.glob("intel-rapl:*") if p.name.count(":") == 1]
    try:
        values = [int((p / "energy_uj").read_text()) for p in packages]
    except OSError:  # root may read it, others may not
        return None
    return sum(values) / 1e6 if values else None
