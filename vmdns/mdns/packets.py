"""Packets of multicast DNS (RFC 6762 section 18)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vmdns.dns import message as wire

PORT = 5353
MAX_PACKET = 9000  # section 17
SIZE = 1440  # what fits an Ethernet frame below IPv6 and UDP, with some room for tunnels
FLUSH = UNICAST = 0x8000  # the top bit of the class, in records and in questions (sections 10.2 and 5.4)
_FLAGS = wire.RESPONSE | wire.AUTHORITATIVE


def parse_packet(packet: bytes) -> wire.Message | None:
    """The parsed packet; None if it is malformed, or its opcode or rcode is not 0 (sections 18.3 and 18.11)."""
    if len(packet) > MAX_PACKET:
        return None
    try:
        message = wire.parse_message(packet)
    except ValueError:
        return None
    if message.flags & 0x780F:
        return None
    questions = [one for one in message.questions if one.cls & wire.CLASS_MASK in (wire.IN, wire.ANY)]
    return wire.Message(message.id, message.flags, questions, *map(_select_records, message[3:]))


def _select_records(records: Iterable[wire.ParsedRecord]) -> list[wire.ParsedRecord]:
    """The records of class IN; PTR records point to names in lower case, which are compared."""
    return [
        one._replace(rdata=one.rdata.lower()) if one.type == wire.PTR else one
        for one in records
        if one.cls & wire.CLASS_MASK == wire.IN
    ]


def nsec_rdata(owner: bytes, types: Iterable[int]) -> bytes:
    """The rdata of an NSEC record that lists all types at a name (section 6.1); all of them below 256."""
    bitmap = bytearray(32)
    for kind in types:
        bitmap[kind >> 3] |= 0x80 >> (kind & 7)
    kept = bytes(bitmap).rstrip(b"\0")
    return owner + bytes((0, len(kept))) + kept


def has_type(nsec: wire.ParsedRecord, kind: int) -> bool:
    """Whether the NSEC record has that type, below 256, in its bitmap (RFC 4034 section 4.1.2)."""
    bitmap = nsec.rdata[len(nsec.key) :]
    if not nsec.rdata.lower().startswith(nsec.key) or bitmap[:1] != b"\0" or len(bitmap) < 2:
        return True  # malformed
    block = bitmap[2 : 2 + bitmap[1]]
    return kind >> 3 < len(block) and bool(block[kind >> 3] & 0x80 >> (kind & 7))


def encode_questions(questions: Iterable[tuple[bytes, int]], proposed: Sequence[wire.Record] = ()) -> bytes:
    """A query for names and types; proposed: the records of a probe (section 8.2)."""
    return wire.encode_message(0, 0, [wire.QuestionEntry(*one) for one in questions], (), proposed)[0]


def encode_probes(owners: Iterable[tuple[bytes, Sequence[wire.Record]]]) -> Iterator[bytes]:
    """Probes for these names with their proposed records, in as few packets as possible.

    They ask for multicast answers, other than section 8.1 has it: port 5353 is shared with other programs of this
    host, and a unicast answer would go to any one of them. Addresses are asked for by type too: some responders
    (python-zeroconf is one) do not answer for ANY type of a host.
    """
    questions: list[tuple[bytes, int]] = []
    proposed: list[wire.Record] = []
    size = 12
    for name, records in owners:
        kinds = (wire.ANY, *sorted({record.type for record in records} & {wire.A, wire.AAAA}))
        more = len(kinds) * (len(name) + 4) + sum(12 + len(record.rdata) for record in records)
        if questions and size + more > SIZE:
            yield encode_questions(questions, proposed)
            questions, proposed, size = [], [], 12
        questions += [(name, kind) for kind in kinds]
        proposed += records
        size += more
    if questions:
        yield encode_questions(questions, proposed)


def encode_responses(answers: Sequence[wire.Record], additionals: Sequence[wire.Record] = ()) -> Iterator[bytes]:
    """Responses with all answers, and additional records in the last one if they fit (section 18).

    All records here are of one responder alone, so all have the cache-flush bit.
    """
    while True:
        packet, left = wire.encode_message(0, _FLAGS, (), answers, (), additionals, limit=SIZE, cls=wire.IN | FLUSH)
        yield packet
        answers = answers[len(answers) + len(additionals) - left :]
        if not answers:
            return


def encode_legacy_response(
    ident: int, questions: Sequence[wire.QuestionEntry], answers: Sequence[wire.Record]
) -> bytes:
    """A response for a legacy unicast client (section 6.7): its id, its questions, no cache-flush bits, and no more
    than 512 bytes (RFC 1035 section 2.3.4)."""
    return wire.encode_message(ident, _FLAGS, questions, answers, limit=512)[0]
