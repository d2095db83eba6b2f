"""Tables of snapshots of proxies (``hindsight capture record --proxy``); sampled beside the trace."""

from __future__ import annotations

from hindsight.capture.schema.table import Column, Table

PROXIES = (
    Table(
        "proxy_snapshots",
        (
            Column("ts", "i64", "the recorder had the snapshot, CLOCK_MONOTONIC", "ns"),
            Column("proxy", "str", "id of the proxy"),
            Column("subsystem", "str", "subsystem that it speaks for"),
            Column("boot_id", "str", "keyed pseudonym; changes when sequence and counters begin again"),
            Column("sequence", "u64", "number of the snapshot: rises by one with each that the proxy makes"),
            Column("mono_ns", "i64", "the proxy made the snapshot, CLOCK_MONOTONIC", "ns"),
            Column("read_ns", "u64", "how long reading it took", "ns"),
            Column("mode", "str", "unknown, emergency, learning, collaboration or recommendation"),
            Column("dataset_type", "str", "empty, value, structure or stream"),
            Column("dataset_state", "str", "how far the proxy's dataset is"),
            Column("dataset_offset", "u64", "where the part that can be read begins", "bytes"),
            Column("dataset_size", "u64", "how much of it can be read", "bytes"),
        ),
        "snapshots of proxies, in the order in which they were read; their values are in `proxy_values`",
    ),
    Table(
        "proxy_values",
        (
            Column("ts", "i64", "that of the snapshot", "ns"),
            Column("proxy", "str", "that of the snapshot"),
            Column("sequence", "u64", "that of the snapshot"),
            Column("kind", "str", "state, actuator or lost"),
            Column("name", "str", "name of the value; its unit is in `proxy_quantities`"),
            Column("value", "i64", "the value; of an actuator: where it stands"),
            Column("min", "i64", "of an actuator: the smallest value that is accepted", "", True),
            Column("max", "i64", "of an actuator: the largest value that is accepted", "", True),
            Column("scope", "str", "of an actuator: what a change reaches", "", True),
        ),
        "the values of the snapshots, by snapshot, kind (state, actuator, lost) and name",
    ),
    Table(
        "proxy_quantities",
        (
            Column("proxy", "str", "id of the proxy"),
            Column("subsystem", "str", "subsystem that it speaks for"),
            Column("name", "str", "name of a value of kind `state`"),
            Column("dtype", "str", "its type in the kernel"),
            Column("unit", "str", "its unit, empty = a number"),
            Column("meaning", "str", "what it is"),
            Column("counter", "bool", "it only rises as long as boot_id stays"),
        ),
        "what is known of the values of a proxy whose subsystem is known; once a recording",
    ),
)
