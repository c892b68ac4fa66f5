//! The HSL standard library: one module per group of the manual, registered in one table.
