//! The control plane on the wire: protobuf messages, frame codec, client and server skeleton.
