"""Compares signatures with dkimpy.

    dkim_check.py verify FOLDER      verifies every *.eml of FOLDER (DKIM, and ARC where there is a chain)
    dkim_check.py sign FOLDER        signs message.txt of FOLDER in several ways, one file each

Keys: FOLDER/rsa.pem, FOLDER/ed25519.seed (base64); records by name: FOLDER/keys.json.
"""

import json
import pathlib
import sys

import dkim

command, folder = sys.argv[1], pathlib.Path(sys.argv[2])
records = json.loads((folder / "keys.json").read_text())


def dns(name, timeout=5):
    text = name.decode() if isinstance(name, bytes) else name
    return records.get(text.rstrip("."))


def answer(name, timeout=5):
    record = dns(name)
    return record.encode() if record else None


if command == "verify":
    failures = 0
    for path in sorted(folder.glob("*.eml")):
        message = path.read_bytes()
        count = message.lower().count(b"\ndkim-signature:") + message.lower().startswith(b"dkim-signature:")
        checker = dkim.DKIM(message)
        good = [checker.verify(idx=index, dnsfunc=answer) for index in range(count)]
        chain = "-"
        if b"ARC-Seal:" in message:
            chain, _, reason = dkim.ARC(message).verify(dnsfunc=answer)
            chain = chain.decode() + ("" if chain == b"pass" else f" {reason}")
            good.append(chain == "pass")
        print(path.name, good, chain)
        failures += not (good and all(good))
    sys.exit(1 if failures else 0)

message = (folder / "message.txt").read_bytes()
rsa = (folder / "rsa.pem").read_bytes()
seed = (folder / "ed25519.seed").read_bytes().strip()
for algorithm, selector, key in ((b"rsa-sha256", b"rsa", rsa), (b"ed25519-sha256", b"ed", seed)):
    for head in (b"simple", b"relaxed"):
        for body in (b"simple", b"relaxed"):
            field = dkim.sign(
                message, selector, b"test.example", key, canonicalize=(head, body), signature_algorithm=algorithm
            )
            name = f"{algorithm.decode()}-{head.decode()}-{body.decode()}.out"
            (folder / name).write_bytes(field + message)
sealed = message
# The second set takes the state of the chain from here.
for results in (b"spf=pass smtp.mailfrom=a@test.example", b"arc=pass"):
    sealed = b"Authentication-Results: test.example; " + results + b"\r\n" + sealed
    fields = dkim.arc_sign(sealed, b"rsa", b"test.example", rsa, b"test.example")
    sealed = b"".join(fields) + sealed
(folder / "arc.chain").write_bytes(sealed)
