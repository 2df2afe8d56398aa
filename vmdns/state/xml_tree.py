"""VirtualBox's XML files as trees, read as claims from outside: bounded, in UTF-8, without DTDs and entities."""

from __future__ import annotations

from xml.etree import ElementTree as xml

MAX_BYTES = 16 * 1024 * 1024  # snapshots of a VM are kept in its settings file
MAX_DEPTH = 1000  # VirtualBox nests snapshots 250 deep (SETTINGS_SNAPSHOT_DEPTH_MAX), of two elements each
MAX_ELEMENTS = 500_000


class _Builder(xml.TreeBuilder):
    def __init__(self) -> None:
        super().__init__()
        self.depth = self.count = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> xml.Element:
        self.depth += 1
        self.count += 1
        if self.depth > MAX_DEPTH or self.count > MAX_ELEMENTS:
            raise ValueError("nested too deep, or too many elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> xml.Element:
        self.depth -= 1
        return super().end(tag)

    def doctype(self, *_: object) -> None:
        raise ValueError("it has a document type declaration")


def parse_xml(data: bytes) -> xml.Element:
    """The outermost element. Raises ValueError."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    # VirtualBox writes UTF-8. Any other declared encoding would be looked up among Python's codecs.
    parser = xml.XMLParser(target=_Builder(), encoding="utf-8")
    try:
        parser.feed(data)
        return parser.close()
    except xml.ParseError as error:
        raise ValueError(str(error)) from None
