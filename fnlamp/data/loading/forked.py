"""Imported by the fork server alone, before it copies itself: its copies are deaf to Ctrl-C and SIGTERM from the start.

A terminal sends Ctrl-C to every process of the program, and Slurm or systemd SIGTERM: whether to stop is the parent's to say. A
copy runs the program's main module before anything of fnlamp's.
"""

from __future__ import annotations

import signal

for _number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(_number, signal.SIG_IGN)
if hasattr(signal, "pthread_sigmask"):  # they were blocked while this process was started
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
