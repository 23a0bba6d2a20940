use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use qpc_protocol::env::{Now, UnixMillis};

use super::{is_active, run, stand_at};

/// In what order a map of the standard library happens to have its keys.
fn order() -> Vec<u32> {
    let map: HashMap<u32, ()> = (0..64).map(|key| (key, ())).collect();
    map.into_keys().collect()
}

#[test]
fn maps_have_the_order_that_the_seed_gives_them() {
    assert_eq!(run(1, order), run(1, order));
    assert_ne!(run(1, order), run(2, order));
    assert_ne!(order(), run(1, order), "other threads draw from the system");
}

#[test]
fn clocks_stand_where_the_world_says() {
    run(1, || {
        assert!(is_active());
        let now = Now { mono: Duration::from_secs(5), wall: UnixMillis(1_234_567) };
        stand_at(now);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(wall, Duration::from_millis(1_234_567));
        let before = Instant::now();
        stand_at(Now { mono: Duration::from_secs(8), ..now });
        assert_eq!(before.elapsed(), Duration::from_secs(3));
    });
    assert!(!is_active());
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(wall > Duration::from_secs(1_700_000_000), "other threads ask the system");
}

#[test]
#[should_panic(expected = "inside")]
fn a_panic_goes_through() {
    run(1, || panic!("inside"));
}
