"""Tables of the scheduler's events. Names of threads are not in them: ``tasks`` and ``task_rename`` have them."""

from __future__ import annotations

from hindsight.capture.schema.table import Column, Table, event

_TARGET = Column("target_pid", "i32", "the thread (field `pid` of the tracepoint)")
_PRIO = Column("prio", "i32", "its priority: 0–99 real time, 100–139 the others (120 = nice 0)")


def _wakeup(name: str, meaning: str) -> Table:
    return event(
        "sched", name, meaning, _TARGET, _PRIO, Column("target_cpu", "i32", "processor that it will run on")
    )


EVENTS = (
    event("sched", "sched_switch", "a processor went from one thread to another",
          Column("prev_pid", "i32", "thread that ran, 0 = the idle one"),
          Column("prev_prio", "i32", "its priority"),
          Column("prev_state", "i64", "0 = it could go on running (256: it was preempted), else why it does not: "
                 "1 sleeps, 2 waits uninterruptibly, 4 stopped, 16 and more has ended"),
          Column("next_pid", "i32", "thread that runs now, 0 = the idle one"),
          Column("next_prio", "i32", "its priority")),
    _wakeup("sched_waking", "a thread is being woken (pid = who wakes it)"),
    _wakeup("sched_wakeup", "a woken thread can run: it waits for a processor from now on"),
    _wakeup("sched_wakeup_new", "a new thread can run for the first time"),
    event("sched", "sched_migrate_task", "a thread moves to another processor", _TARGET, _PRIO,
          Column("orig_cpu", "i32", "from"), Column("dest_cpu", "i32", "to")),
)  # fmt: skip
