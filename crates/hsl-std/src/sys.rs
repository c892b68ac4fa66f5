//! Functions of the C library that Rust has none for: `iconv`, `crypt_r`, `strftime`, `strptime` and the zone of the
//! process. Everything here takes and gives plain bytes; the unsafe calls do not leave this module.
#![allow(unsafe_code, reason = "the only way to these functions of the C library")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::MaybeUninit;

/// Longest result of `strftime`, bytes.
const STRFTIME_MAX: usize = 100;

/// Size of `struct crypt_data` (crypt.h of libxcrypt, kept stable by its ABI).
const CRYPT_DATA_BYTES: usize = 32_768;

#[link(name = "crypt")]
unsafe extern "C" {
    fn crypt_r(key: *const c_char, salt: *const c_char, data: *mut u8) -> *mut c_char;
}

/// The password hash of crypt(3), or `None` when the salt is not usable.
pub(crate) fn crypt(key: &[u8], salt: &[u8]) -> Option<Vec<u8>> {
    let (key, salt) = (CString::new(key).ok()?, CString::new(salt).ok()?);
    // Aligned as the structure wants it, and zero as it must be before its first use.
    let mut data = vec![0u64; CRYPT_DATA_BYTES / 8];
    // SAFETY: both texts end with NUL, and `data` has the size that the function expects.
    let hash = unsafe { crypt_r(key.as_ptr(), salt.as_ptr(), data.as_mut_ptr().cast()) };
    if hash.is_null() {
        return None;
    }
    // SAFETY: a result that is not null is a text with NUL inside `data`, which is still there.
    let hash = unsafe { CStr::from_ptr(hash) }.to_bytes();
    (!hash.starts_with(b"*")).then(|| hash.to_vec())
}

// ---- time ----

/// Broken-down time.
pub(crate) type Time = libc::tm;

/// A structure with all fields 0.
pub(crate) fn zero_time() -> Time {
    // SAFETY: all fields are integers or a pointer, for which zero is valid.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Breaks a Unix time down, in the zone of the process or in UTC. `None` beyond the range of years.
pub(crate) fn break_down(seconds: i64, local: bool) -> Option<Time> {
    let mut time = zero_time();
    // SAFETY: both pointers are valid for the call.
    let result = unsafe {
        if local { libc::localtime_r(&seconds, &mut time) } else { libc::gmtime_r(&seconds, &mut time) }
    };
    (!result.is_null()).then_some(time)
}

/// The Unix time of a broken-down one. `None` when it has none.
pub(crate) fn unix_time(mut time: Time, local: bool) -> Option<i64> {
    time.tm_isdst = -1;
    time.tm_wday = -1;
    // SAFETY: the pointer is valid for the call.
    let seconds = unsafe { if local { libc::mktime(&mut time) } else { libc::timegm(&mut time) } };
    // -1 is an error, or the second before the epoch; only a success sets the day of the week.
    (time.tm_wday != -1).then_some(seconds)
}

/// Formats a time in the C locale, which is in force because nothing here calls `setlocale`. `None` when the result is
/// longer than 100 bytes.
pub(crate) fn strftime(format: &[u8], time: &Time) -> Option<Vec<u8>> {
    // The sign in front tells an empty result from one that is too long.
    let format = CString::new([b"+", format].concat()).ok()?;
    let mut out = [0u8; STRFTIME_MAX + 2];
    // SAFETY: the length is that of the buffer, and the other pointers are valid for the call.
    let len = unsafe { libc::strftime(out.as_mut_ptr().cast(), out.len(), format.as_ptr(), time) };
    (len > 0).then(|| out[1..len].to_vec())
}

/// Parses a time into `time`, whose other fields stay; the bytes that were not used, or `None` on a mismatch.
pub(crate) fn strptime(text: &CStr, format: &CStr, time: &mut Time) -> Option<usize> {
    // SAFETY: both texts end with NUL, and `time` is valid for the call.
    let rest = unsafe { libc::strptime(text.as_ptr(), format.as_ptr(), time) };
    if rest.is_null() {
        return None;
    }
    // SAFETY: the function gives a pointer into `text` or to its end.
    Some(unsafe { CStr::from_ptr(rest) }.to_bytes().len())
}

// ---- iconv ----

/// A conversion between charsets, and whether it leaves out what the target lacks.
pub(crate) struct Iconv(libc::iconv_t, bool);

// SAFETY: a descriptor may be used from any thread, one at a time, which `&mut` ensures.
unsafe impl Send for Iconv {}

/// Bytes by which the output grows.
const ICONV_STEP: usize = 4096;

impl Iconv {
    /// `None` for charsets that the system does not know.
    pub(crate) fn open(from: &[u8], to: &[u8]) -> Option<Iconv> {
        let ignores = to.to_ascii_uppercase().windows(8).any(|w| w == b"//IGNORE");
        let (from, to) = (CString::new(from).ok()?, CString::new(to).ok()?);
        // SAFETY: both names end with NUL.
        let descriptor = unsafe { libc::iconv_open(to.as_ptr(), from.as_ptr()) };
        // The error value is (iconv_t) -1.
        (descriptor as isize != -1).then_some(Iconv(descriptor, ignores))
    }

    /// Converts a whole text.
    ///
    /// # Errors
    /// The error number: EILSEQ, EINVAL for an incomplete end, E2BIG beyond `max` bytes.
    pub(crate) fn convert(&mut self, text: &[u8], max: usize) -> Result<Vec<u8>, c_int> {
        // SAFETY: null pointers set the descriptor to its initial state.
        unsafe {
            libc::iconv(
                self.0,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        let mut out = Vec::with_capacity(text.len() + 16);
        let mut input = text.as_ptr().cast_mut().cast::<c_char>();
        let mut left = text.len();
        let mut flushing = false;
        loop {
            let room = out.capacity() - out.len();
            let mut output = out.spare_capacity_mut().as_mut_ptr().cast::<c_char>();
            let mut space = room;
            // SAFETY: `input` and `left` describe what is left of `text`, which the function only reads; `output` and
            // `space` describe the spare capacity of `out`. Null input writes the final shift sequence.
            let result = unsafe {
                if flushing {
                    libc::iconv(self.0, std::ptr::null_mut(), std::ptr::null_mut(), &mut output, &mut space)
                } else {
                    libc::iconv(self.0, &mut input, &mut left, &mut output, &mut space)
                }
            };
            let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
            // SAFETY: the function wrote `room - space` bytes.
            unsafe { out.set_len(out.len() + room - space) };
            // With //IGNORE glibc reports what it left out, after it has converted the rest.
            let skipped = self.1 && error == libc::EILSEQ && left == 0;
            if result == usize::MAX && !skipped {
                if error != libc::E2BIG || out.len() > max {
                    return Err(error);
                }
                out.reserve(ICONV_STEP.max(out.len() / 2));
            } else if flushing {
                return Ok(out);
            } else {
                flushing = true;
            }
        }
    }
}

impl Drop for Iconv {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open and not used afterwards.
        unsafe { libc::iconv_close(self.0) };
    }
}
