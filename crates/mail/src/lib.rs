//! Messages as values: addresses, headers, edits over an untouched original, delivery status notifications. No IO.
