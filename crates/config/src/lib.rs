//! Typed configuration: parsing with positions, validation with key paths, packing and unpacking of source trees.
