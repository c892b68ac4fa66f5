//! The HSL language: lexer, parser, resolver, bytecode compiler, virtual machine, values and diagnostics. No IO, no
//! async runtime, no mail.
//!
//! A [`Compiler`] turns source into a [`Program`] against a [`Registry`] of native functions; a [`Vm`] runs it.
//!
//! ```
//! use hsl::{Compiler, Limits, NoHost, Registry, Shared, Step, Vm};
//! use std::sync::Arc;
//!
//! let compiled = Compiler::new(Arc::new(Registry::new())).compile("add.hsl", b"return 1 + 2;").unwrap();
//! let mut vm = Vm::new(compiled.program, Arc::new(Shared::new()), Limits::default(), Box::new(NoHost));
//! let Step::Done(value) = vm.run(1000) else { panic!("the script neither waits nor fails") };
//! assert_eq!(value.as_number(), Some(3.0));
//! ```

mod array;
mod ast;
mod compile;
mod diag;
mod error;
mod format;
mod leaf;
mod lexer;
mod loader;
mod mem;
mod number;
mod object;
mod ops;
mod parser;
mod probe;
mod program;
mod regex;
mod registry;
mod shared;
mod string;
mod value;
mod vm;

pub use array::{Array, BadKey, Iter, Key};
pub use compile::{Compiled, Compiler};
pub use diag::{Diagnostic, Place, ScriptError, Severity, SourceFile, SourceMap, Span};
pub use error::Error;
pub use loader::{DataError, LoadError, Loader, NoFiles, decode_text};
pub use number::{SAFE_INTEGER_MAX, number_to_string, parse_number, write_number};
pub use object::{Exception, Function, NativeObject, Object, Resource};
pub use ops::{add_assign, check_memory, repeat_string};
pub use probe::{Observer, Point, PointKind, Reached, Thrown};
pub use program::{ClassDef, Program};
pub use regex::{Groups, Regex};
pub use registry::{
    Args, BoxFuture, CallArgs, Continuation, FunctionDef, NativeCall, NativeClass, NativeFn, NativeMethod,
    Next, OptionDef, OptionTable, Outcome, Param, Registry, Types, call_native, option,
};
pub use shared::{BarrierGuard, BucketInfo, Clock, Shared, shareable, storable};
pub use string::Str;
pub use value::Value;
pub use vm::{Host, Limits, NativeCx, NoHost, Step, Vm};
