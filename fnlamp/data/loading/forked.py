"""Imported by the fork server only, before it forks: its children ignore Ctrl-C and SIGTERM from the start.

A terminal sends Ctrl-C to every process of the program, as Slurm and systemd send SIGTERM; only the parent decides whether to
stop. A child runs the program's main module before any code of fnlamp.
"""

from __future__ import annotations

import signal

for _number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(_number, signal.SIG_IGN)
if hasattr(signal, "pthread_sigmask"):  # blocked since this process was started
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
