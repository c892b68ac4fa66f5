//! The durable store of accepted messages: commit journal, `.hqf` files, recovery.
