//! The part of the class `FFI` that touches memory of C and calls its functions. A script that may use the class can
//! crash the process, as any program in C can; what is kept safe here is everything that does not depend on what the
//! script says: lifetimes of owned memory, of arguments during a call, and of callbacks.
#![allow(unsafe_code, reason = "calling C is what this module is for")]

use hsl::Value;
use libffi::low::{CodePtr, ffi_cif};
use libffi::middle::{Arg, Cif, Closure, Type};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::ManuallyDrop;
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// A type of C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Void,
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    Float,
    Double,
    Pointer,
    /// `...`: what follows has the type of the value.
    Variadic,
}

/// Names of the types.
pub(super) const KINDS: [(&str, Kind); 13] = [
    ("void", Kind::Void),
    ("uint8", Kind::U8),
    ("sint8", Kind::S8),
    ("uint16", Kind::U16),
    ("sint16", Kind::S16),
    ("uint32", Kind::U32),
    ("sint32", Kind::S32),
    ("uint64", Kind::U64),
    ("sint64", Kind::S64),
    ("float", Kind::Float),
    ("double", Kind::Double),
    ("pointer", Kind::Pointer),
    ("...", Kind::Variadic),
];

impl Kind {
    fn ffi(self) -> Type {
        match self {
            Kind::Void => Type::void(),
            Kind::U8 => Type::u8(),
            Kind::S8 => Type::i8(),
            Kind::U16 => Type::u16(),
            Kind::S16 => Type::i16(),
            Kind::U32 => Type::u32(),
            Kind::S32 => Type::i32(),
            Kind::U64 => Type::u64(),
            Kind::S64 => Type::i64(),
            Kind::Float => Type::f32(),
            Kind::Double => Type::f64(),
            Kind::Pointer | Kind::Variadic => Type::pointer(),
        }
    }

    /// Bytes of a value.
    pub(super) fn size(self) -> usize {
        match self {
            Kind::Void | Kind::Variadic => 0,
            Kind::U8 | Kind::S8 => 1,
            Kind::U16 | Kind::S16 => 2,
            Kind::U32 | Kind::S32 | Kind::Float => 4,
            Kind::U64 | Kind::S64 | Kind::Double | Kind::Pointer => 8,
        }
    }

    /// The bits of a number of this type; integers are taken modulo their width.
    pub(super) fn bits(self, n: f64) -> u64 {
        match self {
            Kind::Float => u64::from((n as f32).to_bits()),
            Kind::Double => n.to_bits(),
            // Two's complement of any finite number; nan is 0.
            _ => {
                let whole = n.trunc() % 18_446_744_073_709_551_616.0;
                let bits = if whole < 0.0 { (whole as i128) as u64 } else { whole as u64 };
                self.cut(bits)
            }
        }
    }

    /// Leaves the bytes of this type.
    pub(super) fn cut(self, bits: u64) -> u64 {
        match self.size() {
            8 => bits,
            size => bits & ((1u64 << (8 * size)) - 1),
        }
    }

    /// The number of the bits.
    pub(super) fn number(self, bits: u64) -> f64 {
        match self {
            Kind::S8 => f64::from(bits as u8 as i8),
            Kind::S16 => f64::from(bits as u16 as i16),
            Kind::S32 => f64::from(bits as u32 as i32),
            Kind::S64 => bits as i64 as f64,
            Kind::Float => f64::from(f32::from_bits(bits as u32)),
            Kind::Double => f64::from_bits(bits),
            _ => bits as f64,
        }
    }

    /// The bits as a 64-bit integer, signs extended.
    pub(super) fn wide(self, bits: u64) -> u64 {
        match self {
            Kind::S8 => bits as u8 as i8 as i64 as u64,
            Kind::S16 => bits as u16 as i16 as i64 as u64,
            Kind::S32 => bits as u32 as i32 as i64 as u64,
            Kind::Float | Kind::Double => self.number(bits) as i64 as u64,
            _ => bits,
        }
    }
}

/// Who frees what a value points to.
pub(super) enum Owner {
    /// Somebody else.
    Nobody,
    /// Zeroed memory of the allocator of C.
    Allocated(*mut c_void),
    /// A function of C gets the pointer when the value goes.
    Destructor(*mut c_void, unsafe extern "C" fn(*mut c_void)),
    /// A stream of C.
    Stream(*mut libc::FILE),
    /// A callback.
    Callback(#[expect(dead_code, reason = "kept for its lifetime")] Callback),
    /// Values of the script that must live as long.
    Values(#[expect(dead_code, reason = "kept for their lifetime")] Vec<Value>),
    /// A cell that another value's bits were copied to.
    Cell(#[expect(dead_code, reason = "kept for its lifetime")] Box<u64>),
}

// SAFETY: what is pointed to is owned by this value alone, and freeing them may happen on any thread.
unsafe impl Send for Owner {}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: each pointer came from the function that matches, and is freed once, here.
        unsafe {
            match self {
                Owner::Allocated(memory) => libc::free(*memory),
                Owner::Destructor(pointer, function) => function(*pointer),
                Owner::Stream(file) => {
                    libc::fclose(*file);
                }
                Owner::Nobody | Owner::Callback(_) | Owner::Values(_) | Owner::Cell(_) => {}
            }
        }
    }
}

/// A value of C: a type and its bits.
pub(super) struct FfiValue {
    pub(super) kind: Kind,
    pub(super) bits: u64,
    pub(super) owner: Mutex<Owner>,
}

impl FfiValue {
    pub(super) fn new(kind: Kind, bits: u64, owner: Owner) -> FfiValue {
        FfiValue { kind, bits, owner: Mutex::new(owner) }
    }

    pub(super) fn pointer(address: usize, owner: Owner) -> FfiValue {
        FfiValue::new(Kind::Pointer, address as u64, owner)
    }

    fn address(&self) -> *mut c_void {
        self.bits as usize as *mut c_void
    }
}

/// Zeroed memory; `None` when there is not enough.
pub(super) fn allocate(size: usize) -> Option<FfiValue> {
    // SAFETY: any size may be asked for; a null pointer says no.
    let memory = unsafe { libc::calloc(size.max(1), 1) };
    (!memory.is_null()).then(|| FfiValue::pointer(memory as usize, Owner::Allocated(memory)))
}

/// A copy of a text with NUL behind it.
pub(super) fn cstring(text: &[u8]) -> Option<FfiValue> {
    let value = allocate(text.len() + 1)?;
    copy(&value, text);
    Some(value)
}

/// Copies bytes to where a pointer points; the script says that there is room.
pub(super) fn copy(to: &FfiValue, bytes: &[u8]) -> bool {
    if to.kind != Kind::Pointer || to.bits == 0 {
        return false;
    }
    // SAFETY: the script vouches for the room; the regions do not overlap, `bytes` being memory of the script engine.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.address().cast::<u8>(), bytes.len()) };
    true
}

/// The bytes at a pointer: so many, or up to NUL.
pub(super) fn read(from: &FfiValue, size: Option<usize>) -> Option<Vec<u8>> {
    if from.kind != Kind::Pointer || from.bits == 0 {
        return None;
    }
    // SAFETY: the script vouches for the memory behind the pointer.
    Some(unsafe {
        match size {
            Some(size) => std::slice::from_raw_parts(from.address().cast::<u8>(), size).to_vec(),
            None => CStr::from_ptr(from.address().cast::<c_char>()).to_bytes().to_vec(),
        }
    })
}

/// The value of a type at a pointer.
pub(super) fn deref(from: &FfiValue, kind: Kind) -> Option<u64> {
    let bytes = read(from, Some(kind.size()))?;
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(&bytes);
    Some(u64::from_le_bytes(wide))
}

/// A pointer to a copy of the bits of a value.
pub(super) fn byref(value: &FfiValue) -> FfiValue {
    let cell = Box::new(value.bits);
    let address = std::ptr::from_ref::<u64>(&cell) as usize;
    FfiValue::pointer(address, Owner::Cell(cell))
}

/// Lets a value own what it points to. False unless it is a pointer that is not null and owns nothing yet.
pub(super) fn attach(value: &FfiValue, destructor: Option<&FfiValue>) -> bool {
    let mut owner = value.owner.lock();
    if value.kind != Kind::Pointer || value.bits == 0 || !matches!(*owner, Owner::Nobody) {
        return false;
    }
    *owner = match destructor {
        None => Owner::Allocated(value.address()),
        Some(function) => {
            // SAFETY: the script vouches that the pointer is a function that takes a pointer; it is not null.
            let function = unsafe {
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void)>(function.address())
            };
            Owner::Destructor(value.address(), function)
        }
    };
    true
}

/// Gives up what a value owns without freeing it.
pub(super) fn detach(value: &FfiValue) {
    let owner = std::mem::replace(&mut *value.owner.lock(), Owner::Nobody);
    match owner {
        // Memory of C stays; what belongs to the script engine is freed in the ordinary way.
        Owner::Allocated(_) | Owner::Destructor(..) | Owner::Stream(_) => {
            let _kept = ManuallyDrop::new(owner);
        }
        other => drop(other),
    }
}

/// A stream of C over a descriptor, with its position.
pub(super) fn stream_over(descriptor: OwnedFd) -> Option<FfiValue> {
    // SAFETY: the descriptor is open and now belongs to the stream.
    let file = unsafe { libc::fdopen(descriptor.into_raw_fd(), c"rb".as_ptr()) };
    (!file.is_null()).then(|| FfiValue::pointer(file as usize, Owner::Stream(file)))
}

/// A stream of C over a copy of bytes, at a position.
pub(super) fn stream_of(bytes: &[u8], position: u64) -> Option<FfiValue> {
    // SAFETY: without a buffer of ours the stream has one of its own, with room for the NUL that it writes behind the
    // content; writes are within it.
    unsafe {
        let file = libc::fmemopen(std::ptr::null_mut(), bytes.len() + 1, c"w+b".as_ptr());
        if file.is_null() {
            return None;
        }
        let value = FfiValue::pointer(file as usize, Owner::Stream(file));
        if libc::fwrite(bytes.as_ptr().cast(), 1, bytes.len(), file) != bytes.len()
            || libc::fseek(file, i64::try_from(position).ok()?, libc::SEEK_SET) != 0
        {
            return None;
        }
        Some(value)
    }
}

// ---- libraries ----

/// A loaded library. It is never unloaded: callbacks, destructors and values may still need its code.
pub(super) struct Library(ManuallyDrop<libloading::Library>);

impl Library {
    pub(super) fn open(path: &str) -> Result<Library, String> {
        // SAFETY: the script, which is allowed to use C, vouches for the library's initialisation.
        let library = unsafe { libloading::Library::new(path) };
        library.map(|l| Library(ManuallyDrop::new(l))).map_err(|e| e.to_string())
    }

    /// The address of a symbol.
    pub(super) fn symbol(&self, name: &[u8]) -> Option<usize> {
        let name = CString::new(name).ok()?;
        // SAFETY: the address is only looked up here; what it is used for is vouched for by the script.
        let symbol = unsafe { self.0.get::<*mut c_void>(name.as_bytes_with_nul()) }.ok()?;
        let address = *symbol as usize;
        (address != 0).then_some(address)
    }
}

// ---- calls ----

/// A function with its types.
#[derive(Clone)]
pub(super) struct Function {
    pub(super) address: usize,
    pub(super) arguments: Vec<Kind>,
    pub(super) result: Kind,
}

/// An argument of a call.
pub(super) enum Argument {
    /// Bits of a type.
    Bits(Kind, u64),
    /// A text, as a pointer for the time of the call.
    Text(CString),
}

impl Function {
    /// Calls it. The arguments live until it has returned.
    pub(super) fn call(&self, arguments: &[Argument]) -> Result<u64, String> {
        let fixed = self.arguments.iter().take_while(|k| **k != Kind::Variadic).count();
        let variadic = fixed < self.arguments.len();
        let kinds: Vec<Kind> = arguments
            .iter()
            .map(|a| match a {
                // Arguments behind the dots are promoted as C does.
                Argument::Bits(kind, _) => *kind,
                Argument::Text(_) => Kind::Pointer,
            })
            .collect();
        let types = kinds.iter().enumerate().map(|(i, kind)| match kind {
            Kind::Float if i >= fixed => Type::f64(),
            Kind::U8 | Kind::U16 if i >= fixed => Type::u32(),
            Kind::S8 | Kind::S16 if i >= fixed => Type::i32(),
            kind => kind.ffi(),
        });
        let cif = if variadic {
            Cif::try_new_variadic(types, fixed, self.result.ffi())
        } else {
            Cif::try_new(types, self.result.ffi())
        };
        let cif = cif.map_err(|e| format!("{e:?}"))?;
        let cells: Vec<u64> = arguments
            .iter()
            .enumerate()
            .map(|(i, a)| match a {
                Argument::Bits(Kind::Float, bits) if i >= fixed => Kind::Float.number(*bits).to_bits(),
                Argument::Bits(kind, bits) if i >= fixed => kind.wide_unless_double(*bits),
                Argument::Bits(_, bits) => *bits,
                Argument::Text(text) => text.as_ptr() as u64,
            })
            .collect();
        // The machine is little-endian (checked below), so the low bytes of a cell are a value of any width.
        let list: Vec<Arg<'_>> = cells.iter().map(Arg::new).collect();
        let code = CodePtr::from_ptr(self.address as *const c_void);
        // SAFETY: types and cells agree in number and width; that they are those of the function is what the script
        // vouches for.
        unsafe {
            Ok(match self.result {
                Kind::Void => {
                    cif.call::<()>(code, &list);
                    0
                }
                Kind::Float => u64::from(cif.call::<f32>(code, &list).to_bits()),
                Kind::Double => cif.call::<f64>(code, &list).to_bits(),
                kind => kind.cut(cif.call::<u64>(code, &list)),
            })
        }
    }
}

impl Kind {
    fn wide_unless_double(self, bits: u64) -> u64 {
        if self == Kind::Double { bits } else { self.wide(bits) }
    }
}

const _: () =
    assert!(cfg!(target_endian = "little") && size_of::<usize>() == 8, "written for 64-bit little-endian");

// ---- callbacks ----

/// What a call in a thread of its own tells the script.
pub(super) enum Event {
    /// C wants a script function.
    Callback { function: Value, arguments: Vec<(Kind, u64)>, result: Kind },
    /// The call is over.
    Returned(Result<u64, String>),
}

/// The script behind a running call, as the thread of the call sees it.
struct Caller {
    events: Sender<Event>,
    answers: Receiver<u64>,
}

thread_local! {
    static CALLER: RefCell<Option<Caller>> = const { RefCell::new(None) };
}

/// A call that runs on a thread of its own, so that C can call back while the script engine goes on.
pub(super) struct Running {
    /// What happens.
    pub(super) events: Receiver<Event>,
    answers: Option<Sender<u64>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    /// Starts a call. `kept` lives as long as it runs.
    pub(super) fn start(
        function: Function,
        arguments: Vec<Argument>,
        kept: Vec<Value>,
    ) -> std::io::Result<Running> {
        let (events, from_call) = channel();
        let (answers, to_call) = channel();
        let thread = std::thread::Builder::new().name("ffi".into()).spawn(move || {
            CALLER.set(Some(Caller { events: events.clone(), answers: to_call }));
            let result = function.call(&arguments);
            CALLER.set(None);
            drop(kept);
            // Nobody waits when the script has failed meanwhile.
            let _ = events.send(Event::Returned(result));
        })?;
        Ok(Running { events: from_call, answers: Some(answers), thread: Some(thread) })
    }

    /// Answers a callback.
    pub(super) fn answer(&self, bits: u64) {
        if let Some(answers) = &self.answers {
            // A call that has ended takes no answers.
            let _ = answers.send(bits);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Callbacks that are still to come get 0 at once, and the call is let end.
        self.answers = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a closure of C knows.
struct Target {
    function: Value,
    arguments: Vec<Kind>,
    result: Kind,
}

/// Callbacks that exist in the process.
static CALLBACKS: AtomicUsize = AtomicUsize::new(0);

/// Whether a call may be called back.
pub(super) fn has_callbacks() -> bool {
    CALLBACKS.load(Ordering::Acquire) > 0
}

/// A function pointer that calls a script function.
pub(super) struct Callback {
    // Dropped before the target it borrows.
    closure: ManuallyDrop<Closure<'static>>,
    target: *mut Target,
}

impl Callback {
    /// Makes one; it works while the value lives and while a call of the script runs on the calling thread.
    pub(super) fn value(function: Value, arguments: Vec<Kind>, result: Kind) -> Result<FfiValue, String> {
        let cif =
            Cif::try_new(arguments.iter().map(|k| k.ffi()), result.ffi()).map_err(|e| format!("{e:?}"))?;
        let target = Box::into_raw(Box::new(Target { function, arguments, result }));
        // SAFETY: the target is freed only after the closure, in `drop`.
        let borrowed: &'static Target = unsafe { &*target };
        let closure = match Closure::try_new(cif, enter, borrowed) {
            Ok(closure) => closure,
            Err(error) => {
                // SAFETY: it was made above and nothing refers to it.
                drop(unsafe { Box::from_raw(target) });
                return Err(format!("{error:?}"));
            }
        };
        let address = *closure.code_ptr() as usize;
        CALLBACKS.fetch_add(1, Ordering::AcqRel);
        let callback = Callback { closure: ManuallyDrop::new(closure), target };
        Ok(FfiValue::pointer(address, Owner::Callback(callback)))
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        CALLBACKS.fetch_sub(1, Ordering::AcqRel);
        // SAFETY: both are dropped once, the closure before the target that it borrows.
        unsafe {
            ManuallyDrop::drop(&mut self.closure);
            drop(Box::from_raw(self.target));
        }
    }
}

/// What C calls.
unsafe extern "C" fn enter(_: &ffi_cif, result: &mut u64, arguments: *const *const c_void, target: &Target) {
    let bits = |(i, kind): (usize, &Kind)| {
        let mut cell = [0u8; 8];
        // SAFETY: libffi gives a pointer to each argument of the declared types.
        unsafe {
            std::ptr::copy_nonoverlapping((*arguments.add(i)).cast::<u8>(), cell.as_mut_ptr(), kind.size());
        }
        (*kind, u64::from_le_bytes(cell))
    };
    let arguments = target.arguments.iter().enumerate().map(bits).collect();
    let event = Event::Callback { function: target.function.clone(), arguments, result: target.result };
    let answer = CALLER.with_borrow(|caller| {
        let caller = caller.as_ref()?;
        caller.events.send(event).ok()?;
        caller.answers.recv().ok()
    });
    // Without a script that waits, on foreign threads or after a failure, the result is 0. Integers fill the register.
    let answer = target.result.wide_unless_float(answer.unwrap_or(0));
    if target.result != Kind::Void {
        *result = answer;
    }
}

impl Kind {
    fn wide_unless_float(self, bits: u64) -> u64 {
        if matches!(self, Kind::Float | Kind::Double) { bits } else { self.wide(bits) }
    }
}

/// The address of OpenSSL's structure of a certificate.
pub(super) fn certificate_address(certificate: &openssl::x509::X509) -> usize {
    use foreign_types::ForeignType as _;
    certificate.as_ptr() as usize
}

/// Shared between the values of a script.
pub(super) type Shared = Arc<FfiValue>;
