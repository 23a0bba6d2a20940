//! Randomness and time of the process, taken over for threads that simulate.
//!
//! The machines take neither, but OpenMLS does, in two places: a `HashMap` of the standard library orders several
//! removals in one commit, and past epochs are stamped with `SystemTime::now()`. So this program has its own
//! `getrandom` and `clock_gettime` (the linker prefers them to the C library's). On a thread inside [`run`] they answer
//! from its seed and from the world's clock, on all others they ask the kernel. A `HashMap`'s keys are drawn once per
//! thread, therefore each world has a thread of its own.
//!
//! Programs that link this crate get the two symbols. None of the products does.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

use qpc_protocol::env::Now;

/// Stack of a world's thread in bytes: that of a main thread.
const STACK: usize = 8 * 1024 * 1024;

#[derive(Clone, Copy)]
struct Taken {
    rng: u64,
    mono: Duration,
    wall: Duration,
}

thread_local! {
    /// No destructor and no lazy start: it can be asked at any time in a thread's life.
    static TAKEN: Cell<Option<Taken>> = const { Cell::new(None) };
}

/// Runs something on a thread of its own whose randomness follows from `seed` and whose clocks stand where
/// [`stand_at`] says. A panic in there goes on here.
///
/// # Panics
/// If the system gives no thread.
#[allow(clippy::panic, reason = "there is no world without a thread")]
pub fn run<T: Send>(seed: u64, world: impl FnOnce() -> T + Send) -> T {
    let run = || {
        enter(seed);
        world()
    };
    let done = thread::scope(|scope| {
        let builder = thread::Builder::new().stack_size(STACK);
        builder.spawn_scoped(scope, run).map(|thread| thread.join())
    });
    match done {
        Ok(Ok(value)) => value,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => panic!("no thread: {error}"),
    }
}

/// Takes over this thread, for good. It has to be a fresh one.
pub fn enter(seed: u64) {
    TAKEN.set(Some(Taken { rng: seed, mono: Duration::ZERO, wall: Duration::ZERO }));
}

/// Whether this thread is taken over, and the takeover works on this system.
pub fn is_active() -> bool {
    cfg!(target_os = "linux") && TAKEN.get().is_some()
}

/// What the clocks of this thread show from now on, if it is taken over.
pub fn stand_at(now: Now) {
    if let Some(taken) = TAKEN.get() {
        let wall = Duration::from_millis(now.wall.0);
        TAKEN.set(Some(Taken { mono: now.mono, wall, ..taken }));
    }
}

impl Taken {
    /// SplitMix64: this is for orders of maps, not for keys.
    fn draw(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.rng ^ (self.rng >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "two symbols of the C library")]
mod symbols {
    use super::TAKEN;

    /// As in `getrandom(2)`.
    ///
    /// # Safety
    /// `out` has room for `len` bytes.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn getrandom(
        out: *mut libc::c_void,
        len: libc::size_t,
        flags: libc::c_uint,
    ) -> libc::ssize_t {
        let Some(mut taken) = TAKEN.get() else {
            // SAFETY: the caller's promise, handed on.
            return unsafe { libc::syscall(libc::SYS_getrandom, out, len, flags) } as libc::ssize_t;
        };
        if len > 0 {
            // SAFETY: the caller has room for `len` bytes there, and nobody else looks at them meanwhile.
            let out = unsafe { core::slice::from_raw_parts_mut(out.cast::<u8>(), len) };
            for chunk in out.chunks_mut(8) {
                chunk.copy_from_slice(&taken.draw().to_le_bytes()[..chunk.len()]);
            }
            TAKEN.set(Some(taken));
        }
        len.cast_signed()
    }

    /// As in `clock_gettime(2)`.
    ///
    /// # Safety
    /// `out` has room for a `timespec`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn clock_gettime(
        clock: libc::clockid_t,
        out: *mut libc::timespec,
    ) -> libc::c_int {
        let shown = TAKEN.get().and_then(|taken| match clock {
            libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => Some(taken.wall),
            libc::CLOCK_MONOTONIC | libc::CLOCK_MONOTONIC_COARSE | libc::CLOCK_BOOTTIME => {
                Some(taken.mono)
            }
            _ => None,
        });
        match shown {
            Some(shown) => {
                let tv_sec = shown.as_secs().cast_signed();
                let tv_nsec = libc::c_long::from(shown.subsec_nanos().cast_signed());
                // SAFETY: the caller has room for one there.
                unsafe { out.write(libc::timespec { tv_sec, tv_nsec }) };
                0
            }
            // SAFETY: the caller's promise, handed on.
            None => unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) as libc::c_int },
        }
    }
}

#[cfg(test)]
mod tests;
