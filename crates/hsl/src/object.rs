//! Reference values: functions, objects of script and native classes, resources.

use crate::array::Array;
use crate::error::Error;
use crate::mem;
use crate::program::{ClassDef, Program};
use crate::registry::{FunctionDef, NativeClass};
use crate::string::Str;
use crate::value::Value;
use crate::vm::generator::Generator;
use parking_lot::Mutex;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A lock for what is held for a few instructions and almost never contended: one locked instruction where a mutex
/// that can sleep takes two.
pub(crate) type Lock<T> = spin::mutex::SpinMutex<T, spin::relax::Yield>;

/// A variable shared by reference between a function and closures.
pub(crate) struct Cell(pub(crate) Lock<Value>);

impl Cell {
    pub(crate) fn new(value: Value) -> Arc<Cell> {
        Arc::new(Cell(Lock::new(value)))
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let value = std::mem::take(self.0.get_mut());
        if value.is_heap() {
            mem::drop_bounded([value]);
        }
    }
}

/// Something callable: a script function, a closure, a class or a native function.
pub struct Function(pub(crate) FunctionKind);

pub(crate) enum FunctionKind {
    Script {
        program: Arc<Program>,
        proto: u32,
        captures: Box<[Arc<Cell>]>,
        this: Option<Arc<Object>>,
        closure: bool,
    },
    Class {
        program: Arc<Program>,
        class: u32,
    },
    Native(Arc<FunctionDef>),
    NativeClass(Arc<NativeClass>),
    NativeMethod {
        object: Arc<Object>,
        method: u32,
    },
}

impl Function {
    /// A function value that calls a native function.
    pub fn native(def: Arc<FunctionDef>) -> Function {
        Function(FunctionKind::Native(def))
    }

    /// Equality of function values: same code, same bound object, and for closures the same instance.
    pub(crate) fn same(&self, other: &Function) -> bool {
        use FunctionKind::{Class, Native, NativeClass, NativeMethod, Script};
        match (&self.0, &other.0) {
            (
                Script { program: a, proto: x, this: s, closure: false, .. },
                Script { program: b, proto: y, this: t, closure: false, .. },
            ) => {
                Arc::ptr_eq(a, b)
                    && x == y
                    && match (s, t) {
                        (None, None) => true,
                        (Some(s), Some(t)) => Arc::ptr_eq(s, t),
                        _ => false,
                    }
            }
            (Class { program: a, class: x }, Class { program: b, class: y }) => Arc::ptr_eq(a, b) && x == y,
            (Native(a), Native(b)) => Arc::ptr_eq(a, b),
            (NativeClass(a), NativeClass(b)) => Arc::ptr_eq(a, b),
            (NativeMethod { object: a, method: x }, NativeMethod { object: b, method: y }) => {
                Arc::ptr_eq(a, b) && x == y
            }
            _ => false,
        }
    }

    /// Name for messages.
    pub fn name(&self) -> &str {
        match &self.0 {
            FunctionKind::Script { program, proto, .. } => &program.protos[*proto as usize].name,
            FunctionKind::Class { program, class } => &program.classes[*class as usize].name,
            FunctionKind::Native(def) => &def.name,
            FunctionKind::NativeClass(class) => &class.name,
            FunctionKind::NativeMethod { object, method } => match &object.0 {
                ObjectKind::Native { class, .. } => &class.methods[*method as usize].name,
                _ => "method",
            },
        }
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        if let FunctionKind::Script { this, .. } = &mut self.0
            && let Some(object) = this.take()
        {
            mem::drop_bounded([Value::Object(object)]);
        }
    }
}

/// An instance of a class.
pub struct Object(pub(crate) ObjectKind);

pub(crate) enum ObjectKind {
    Script { program: Arc<Program>, class: Arc<ClassDef>, props: Lock<Array> },
    Native { class: Arc<NativeClass>, data: Box<dyn NativeObject> },
    Generator(Mutex<Generator>),
}

impl Object {
    /// An instance of a native class.
    pub fn native(class: &Arc<NativeClass>, data: impl NativeObject) -> Value {
        Value::Object(Arc::new(Object(ObjectKind::Native { class: Arc::clone(class), data: Box::new(data) })))
    }

    /// An iterator over keys and values.
    pub fn iterator(items: Vec<(Value, Value)>) -> Value {
        Object::native(&crate::vm::builtin::ITERATOR_CLASS, Items(Mutex::new(items.into_iter())))
    }

    /// Name of the class.
    pub fn class_name(&self) -> &str {
        match &self.0 {
            ObjectKind::Script { class, .. } => &class.name,
            ObjectKind::Native { class, .. } => &class.name,
            ObjectKind::Generator(_) => "Iterator",
        }
    }

    /// The data of a native object, if it is of type `T`.
    pub fn data<T: NativeObject>(&self) -> Option<&T> {
        match &self.0 {
            ObjectKind::Native { data, .. } => (data.as_ref() as &dyn Any).downcast_ref(),
            _ => None,
        }
    }

    /// The native object behind this instance.
    pub fn as_native(&self) -> Option<&dyn NativeObject> {
        match &self.0 {
            ObjectKind::Native { data, .. } => Some(data.as_ref()),
            _ => None,
        }
    }

    pub(crate) fn write_string(&self, out: &mut Vec<u8>) {
        match &self.0 {
            ObjectKind::Native { class, data } => match data.display() {
                Some(text) => out.extend_from_slice(&text),
                None => out.extend_from_slice(class.name.as_bytes()),
            },
            _ => out.extend_from_slice(self.class_name().as_bytes()),
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({})", self.class_name())
    }
}

/// The Rust side of an instance of a native class. Methods see it through a shared reference, so changing state is
/// behind a lock; no lock may be held while values are dropped.
pub trait NativeObject: Any + Send + Sync {
    /// Text of `string(object)`; the class name when `None`.
    fn display(&self) -> Option<Vec<u8>> {
        None
    }

    /// Whether `foreach` accepts the object.
    fn iterable(&self) -> bool {
        false
    }

    /// Next key and value for `foreach`; `None` at the end.
    ///
    /// # Errors
    /// Whatever stops the iteration; the script sees an exception.
    fn next(&self) -> Result<Option<(Value, Value)>, Error> {
        Ok(None)
    }

    /// Keys and values that `foreach` walks over, as they are at its start; `None` for objects that are iterators
    /// themselves or cannot be walked.
    fn elements(&self) -> Option<Vec<(Value, Value)>> {
        None
    }

    /// Whether the cache and the shared memory may hold the object by reference.
    fn shareable(&self) -> bool {
        false
    }
}

/// An iterator over elements taken from a native object.
pub(crate) struct Items(Mutex<std::vec::IntoIter<(Value, Value)>>);

impl NativeObject for Items {
    fn iterable(&self) -> bool {
        true
    }

    fn next(&self) -> Result<Option<(Value, Value)>, Error> {
        Ok(self.0.lock().next())
    }
}

/// An opaque handle of the library. Scripts can pass, compare and test it, nothing else.
#[derive(Clone)]
pub struct Resource(Arc<ResourceData>);

struct ResourceData {
    data: Box<dyn Any + Send + Sync>,
    shareable: bool,
}

impl Resource {
    /// Wraps `data`; a `shareable` resource may be kept by the cache and the shared memory.
    pub fn new(data: impl Any + Send + Sync, shareable: bool) -> Resource {
        Resource(Arc::new(ResourceData { data: Box::new(data), shareable }))
    }

    /// The data, if it is of type `T`.
    pub fn data<T: Any>(&self) -> Option<&T> {
        self.0.data.downcast_ref()
    }

    /// Whether it may leave its execution.
    pub fn shareable(&self) -> bool {
        self.0.shareable
    }

    pub(crate) fn same(&self, other: &Resource) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// An instance of the builtin class `Exception` (language section 11).
pub struct Exception {
    /// What happened.
    pub message: Str,
    /// Place of the failure; absent for exceptions made by scripts.
    pub place: Option<crate::diag::Place>,
}

impl NativeObject for Exception {
    fn display(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        if let Some(p) = &self.place {
            out.extend_from_slice(format!("{}:{}:{}: ", p.file_or_entry(), p.line, p.column).as_bytes());
        }
        out.extend_from_slice(self.message.as_bytes());
        Some(out)
    }
}
