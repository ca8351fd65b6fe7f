//! argv → command → exit code.

use std::ffi::c_long;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long freed memory waits for somebody else to want it before the system gets it back. The allocator's own default of
/// a second nearly doubled the peak of 200 pulls and 20 pushes at once; giving it back at once costs neither processor time
/// nor requests that could be measured, because small pieces are used again all the same.
const PURGE_DELAY_MS: c_long = 0;
/// `mi_option_purge_delay`, for which the bindings have no name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

#[expect(unsafe_code, reason = "the allocator's options have no safe form")]
fn main() -> ExitCode {
    // SAFETY: options may be set while there is only one thread, and this is the first thing that is done.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) };
    entrepot::cli::main()
}
