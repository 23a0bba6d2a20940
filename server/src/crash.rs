//! The moments at which a crash could tear something, for tests that let the process die at each of them.

/// Names the moment to die at, counted from 0. Read in builds with debug assertions only.
#[cfg(debug_assertions)]
const AT: &str = "QPC_KILL_AT";

/// Right before or right after something of this process became durable. If the test that started it wants it to die
/// here, it gets `kill -9` and this does not return: nothing is told of what was just stored, nothing is cleaned up.
/// In builds without debug assertions it is nothing.
#[cfg(debug_assertions)]
pub fn crash_point() {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<u64>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| std::env::var(AT).ok()?.parse().ok());
    if wanted.is_none_or(|wanted| PASSED.fetch_add(1, Ordering::SeqCst) != wanted) {
        return;
    }
    let own = std::process::id().to_string();
    drop(std::process::Command::new("kill").args(["-KILL", &own]).status());
    loop {
        std::thread::park();
    }
}

/// Nothing, in builds without debug assertions.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn crash_point() {}
