"""Talks to the server under test with Python's smtplib: smtp_clients.py PORT MODE; MODE is plain, starttls or implicit.

The server's auth script takes joe with the password sesame, and the token "good". Prints one line per message sent.
"""

import smtplib
import ssl
import sys

port, mode = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE


def connect():
    if mode == "implicit":
        client = smtplib.SMTP_SSL("127.0.0.1", port, local_hostname="py.example", context=context)
    else:
        client = smtplib.SMTP("127.0.0.1", port, local_hostname="py.example")
    if mode == "starttls":
        client.starttls(context=context)
    client.ehlo()
    return client


def send(client, name, options=()):
    refused = client.sendmail(
        f"{name}@from.example", ["c@to.example", "e@to.example"], f"Subject: {name}\r\n\r\n.dot\r\nhej\r\n", options
    )
    assert not refused, refused
    print("sent", name)


def xoauth2(challenge=None):
    # The server answers a bad token with a description, which is acknowledged with an empty line.
    return "user=joe\x01auth=Bearer good\x01\x01" if challenge is None else ""


with connect() as client:
    send(client, "anonymous")
for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"]:
    with connect() as client:
        assert mechanism in client.esmtp_features["auth"].split(), client.esmtp_features
        client.user, client.password = "joe", "sesame"
        client.auth(mechanism, getattr(client, "auth_" + mechanism.lower().replace("-", "_")))
        send(client, "with-" + mechanism.lower())
with connect() as client:
    client.auth("XOAUTH2", xoauth2)
    send(client, "with-xoauth2")
with connect() as client:
    client.user, client.password = "joe", "wrong"
    try:
        client.auth("PLAIN", client.auth_plain)
        raise SystemExit("a wrong password was taken")
    except smtplib.SMTPAuthenticationError as error:
        assert error.smtp_code == 535, error
with connect() as client:
    client.sendmail("jürgen@from.example", ["møte@to.example"], "Subject: utf8\r\n\r\nhej\r\n", ["SMTPUTF8"])
    print("sent utf8")
with connect() as client:
    assert client.docmd("MAIL", "FROM:<bdat@from.example>")[0] == 250
    assert client.docmd("RCPT", "TO:<c@to.example>")[0] == 250
    client.sock.sendall(b"BDAT 17\r\nSubject: bdat\r\n\r\nBDAT 6 LAST\r\n.hej\r\n")
    assert client.getreply()[0] == 250
    assert client.getreply()[0] == 250
    print("sent bdat")
