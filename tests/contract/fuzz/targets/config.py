"""Any vmdns.toml is a ConfigError of one printable sentence, or a Config that renders to text which reads the same."""

from __future__ import annotations

from vmdns import cli_format
from vmdns.config import ConfigError, parse, values_in_force
from vmdns.dns.message import Record
from vmdns.dns.zonefile import parse_records


def check(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        config = parse(text, "vmdns.toml")
    except ConfigError as error:
        assert str(error).startswith("vmdns.toml")
        return
    shown = cli_format.config({"values": values_in_force(config)})
    assert parse("\n".join(shown), "again") == config
    assert all(apex == apex.lower() for apex in (*config.policy().own, *config.forward_names))
    for record in parse_records(config.records, config.zones, 5):
        assert isinstance(record, Record)
        assert len(record.owner) <= 255
        assert len(record.rdata) <= 65_535
