//! Calls of OpenSSL that the crate `openssl` has no safe form of.
#![allow(unsafe_code, reason = "the C interface of OpenSSL")]

use foreign_types::{ForeignType, ForeignTypeRef};
use openssl::cms::{CMSOptions, CmsContentInfo, CmsContentInfoRef};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKeyRef, Private};
use openssl::ssl::{ShutdownState, SslRef};
use openssl::stack::StackRef;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyParamRef;
use openssl::x509::{X509, X509Crl, X509Ref};
use openssl_sys as ffi;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

unsafe extern "C" {
    fn CMS_add1_signer(
        cms: *mut ffi::CMS_ContentInfo,
        signer: *mut ffi::X509,
        key: *mut ffi::EVP_PKEY,
        digest: *const ffi::EVP_MD,
        flags: c_uint,
    ) -> *mut c_void;
    fn CMS_final(
        cms: *mut ffi::CMS_ContentInfo,
        data: *mut ffi::BIO,
        dcont: *mut ffi::BIO,
        flags: c_uint,
    ) -> c_int;
    fn CMS_get0_signers(cms: *mut ffi::CMS_ContentInfo) -> *mut ffi::OPENSSL_STACK;
    fn X509_VERIFY_PARAM_add1_host(
        param: *mut ffi::X509_VERIFY_PARAM,
        name: *const std::ffi::c_char,
        length: usize,
    ) -> c_int;
    fn X509_STORE_add_crl(store: *mut ffi::X509_STORE, crl: *mut ffi::X509_CRL) -> c_int;
}

/// Signs with a digest of choice; the flag `DETACHED` leaves the content out.
pub(crate) fn cms_sign(
    certificate: &X509Ref,
    key: &PKeyRef<Private>,
    chain: &StackRef<X509>,
    data: &[u8],
    digest: MessageDigest,
    flags: CMSOptions,
) -> Result<CmsContentInfo, ErrorStack> {
    let length = c_int::try_from(data.len()).map_err(|_| ErrorStack::get())?;
    let flags = flags | CMSOptions::PARTIAL;
    let cms = CmsContentInfo::sign::<Private>(None, None, Some(chain), None, flags)?;
    // SAFETY: all pointers come from live objects; the function takes its own references to certificate and key.
    let signer = unsafe {
        CMS_add1_signer(cms.as_ptr(), certificate.as_ptr(), key.as_ptr(), digest.as_ptr(), flags.bits())
    };
    if signer.is_null() {
        return Err(ErrorStack::get());
    }
    // SAFETY: `data` lives longer than the memory BIO over it, which is freed below.
    unsafe {
        let bio = ffi::BIO_new_mem_buf(data.as_ptr().cast(), length);
        if bio.is_null() {
            return Err(ErrorStack::get());
        }
        let done = CMS_final(cms.as_ptr(), bio, ptr::null_mut(), flags.bits());
        ffi::BIO_free_all(bio);
        if done != 1 {
            return Err(ErrorStack::get());
        }
    }
    Ok(cms)
}

/// The certificates of the signers, after a verification.
pub(crate) fn cms_signers(cms: &CmsContentInfoRef) -> Vec<X509> {
    // SAFETY: the stack is ours to free, its certificates are not, so each gets a reference of its own.
    unsafe {
        let stack = CMS_get0_signers(cms.as_ptr());
        if stack.is_null() {
            return Vec::new();
        }
        let signers = (0..ffi::OPENSSL_sk_num(stack))
            .map(|i| X509Ref::from_ptr(ffi::OPENSSL_sk_value(stack, i).cast()).to_owned())
            .collect();
        ffi::OPENSSL_sk_free(stack);
        signers
    }
}

/// Adds a revocation list to a store.
pub(crate) fn add_crl(store: &mut X509StoreBuilder, crl: &X509Crl) -> Result<(), ErrorStack> {
    // SAFETY: both pointers come from live objects; the store takes its own reference.
    match unsafe { X509_STORE_add_crl(store.as_ptr(), crl.as_ptr()) } {
        1 => Ok(()),
        _ => Err(ErrorStack::get()),
    }
}

/// Adds a name to those of which the peer's certificate must carry one.
pub(crate) fn add_host(param: &mut X509VerifyParamRef, name: &str) -> Result<(), ErrorStack> {
    // SAFETY: the text and its length belong together, and `param` comes from a live object.
    match unsafe { X509_VERIFY_PARAM_add1_host(param.as_ptr(), name.as_ptr().cast(), name.len()) } {
        1 => Ok(()),
        _ => Err(ErrorStack::get()),
    }
}

/// Which ends of a connection have been sent or received.
pub(crate) fn ssl_shutdown_state(ssl: &SslRef) -> ShutdownState {
    // SAFETY: the pointer comes from a live object, and the call only reads.
    let bits = unsafe { ffi::SSL_get_shutdown(ssl.as_ptr()) };
    ShutdownState::from_bits_truncate(bits)
}
