//! RFC 5321 and its extensions as two pure state machines, server and client: bytes in, events and bytes out.
