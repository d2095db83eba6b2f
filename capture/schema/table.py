"""What a table and a column are."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """One column: ``dtype`` is one of u8 u16 u32 u64 i8 i16 i32 i64 bool str."""

    name: str
    dtype: str
    meaning: str
    unit: str = ""
    nullable: bool = False


class Table(NamedTuple):
    """One table. ``tracepoint`` is ``system/event`` for tables of events, else empty."""

    name: str
    columns: tuple[Column, ...]
    meaning: str
    tracepoint: str = ""

    def column(self, name: str) -> Column:
        """The column of that name; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name}")


EVENT_COLUMNS = (
    Column("ts", "i64", "time of the event, CLOCK_MONOTONIC", "ns"),
    Column("cpu", "u16", "processor whose ring buffer held the event"),
    Column("pid", "i32", "thread that was running (the kernel's common_pid)"),
)

INODE = (
    Column("i_ino", "u64", "inode number"),
    Column("s_dev_major", "u32", "device of the file system, major number"),
    Column("s_dev_minor", "u32", "device of the file system, minor number"),
)
BLOCK = (
    Column("dev_major", "u32", "block device, major number"),
    Column("dev_minor", "u32", "block device, minor number"),
    Column("sector", "u64", "first sector", "512 bytes"),
    Column("nr_sector", "u32", "length", "512 bytes"),
)


def event(system: str, name: str, meaning: str, *columns: Column) -> Table:
    """The table of a tracepoint: ``columns`` after :data:`EVENT_COLUMNS`."""
    return Table(name, EVENT_COLUMNS + columns, meaning, f"{system}/{name}")
