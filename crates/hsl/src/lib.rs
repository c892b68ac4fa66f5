//! The HSL language: lexer, parser, resolver, bytecode compiler, virtual machine, values and diagnostics. No IO, no async runtime, no mail.
