"""Crash harnesses: what a site looks like after a kill, a power cut, an I/O error or a full disk at any step.

    world      small releases, sites to bring them to, the acts, and the laws that hold whatever happened
    cases      what is struck
    strike     strikes a child process at its N-th durable step
    schedules  random acts struck at random steps, against the plain model of model.py
    power      the same steps on an ext4 that loses power
    trace      what the unmodified command line does to a disk, from strace
    states     every state that a power cut may leave of such a trace
    aftermath  holds them to the laws
    planted    the command line with mistakes of order, which must be caught
    inject     errors and kills by strace at the N-th system call of the unmodified command line
    full       a disk that is full at every write
    race       many commands at once
    unplug     imports of several volumes that are killed while they read

`./scripts/crash` runs them; tests/integration runs the quick part of each.
"""
