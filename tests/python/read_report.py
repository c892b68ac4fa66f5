"""Reads a delivery status notification from standard input with parsers that others wrote; prints JSON.

    read_report.py [DKIM-RECORD]     with the TXT record of the key, signatures are verified
"""

import email
import email.policy
import json
import sys

import dkim
from flufl.bounce import all_failures

raw = sys.stdin.buffer.read()
message = email.message_from_bytes(raw, policy=email.policy.default)
parts = list(message.iter_parts())
status = [{key.lower(): str(value) for key, value in block.items()} for block in parts[1].get_payload()]
temporary, permanent = all_failures(email.message_from_bytes(raw))


def first_text(part):
    for one in part.walk():
        if one.get_content_type() == "text/plain":
            return one.get_content()
    return ""


record = sys.argv[1].encode() if len(sys.argv) > 1 else None
signed = b"dkim-signature:" in raw.lower()
print(json.dumps({
    "type": message.get_content_type(),
    "report": message.get_param("report-type"),
    "header": {key.lower(): str(value) for key, value in message.items()},
    "parts": [part.get_content_type() for part in parts],
    "text": first_text(parts[0]),
    "status": status,
    "original": parts[2].as_string() if len(parts) > 2 else "",
    "defects": [str(defect) for part in message.walk() for defect in part.defects],
    "temporary": sorted(address.decode() for address in temporary),
    "permanent": sorted(address.decode() for address in permanent),
    "signed": signed,
    "verified": signed and dkim.verify(raw, dnsfunc=lambda name, timeout=5: record),
}))
