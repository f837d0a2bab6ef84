"""What else keeps a node busy, before a sweep starts: a busy node disturbs every run on it."""

from dlperf.model import Model

# From this share on a process takes one CPU from whatever runs there, on a node with many CPUs too.
_WHOLE_CPU = 0.5


class BusyProcess(Model):
    """A process of others; `share` is of one CPU's time, and more than 1 if it uses several."""

    pid: int
    command: str  # its name, without arguments, which may hold secrets
    share: float


class Busy(Model):
    """The output of `frameworks/node/busy.py`."""

    share: float  # of the time of all usable CPUs that is not dlperf's, from 0 to 1
    cpus: int
    processes: tuple[BusyProcess, ...] = ()  # those that use most, the busiest first

    def exceeds(self, share: float) -> bool:
        """Whether runs may lose more than this share: of all CPUs, or of one that a process keeps busy."""
        return self.share > share or any(each.share > max(share, _WHOLE_CPU) for each in self.processes)

    def __str__(self) -> str:
        """`97% of 2 CPUs, most of it by stress (pid 12, 1.3 CPUs), cc1plus (pid 13, 0.6 CPUs)`."""
        cpus = "1 CPU" if self.cpus == 1 else f"{self.cpus} CPUs"
        named = ", ".join(
            f"{process.command} (pid {process.pid}, {process.share:.1f} CPUs)" for process in self.processes
        )
        return f"{self.share:.0%} of {cpus}" + (f", most of it by {named}" if named else "")
