#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use qpc_protocol::env::Entropy;

use super::{Compared, THRESHOLD, welch};

/// Times of 100 µs and up to 10 µs more, every twentieth ten times as long.
fn times(seed: u8, more: Duration) -> Vec<Duration> {
    let mut entropy = Entropy::from_seed([seed; 32]);
    let mut draw = || {
        let time = Duration::from_nanos(100_000 + entropy.u64() % 10_000) + more;
        if entropy.u64().is_multiple_of(20) { time * 10 } else { time }
    };
    (0..2_000).map(|_| draw()).collect()
}

#[test]
fn t_is_the_one_of_the_textbook() {
    // Means 2.5 and 5, variances 5/3 and 5/2: t = -2.5 / sqrt(5/12 + 1/2).
    let (t, error) = welch(&[1.0, 2.0, 3.0, 4.0], &[3.0, 4.0, 5.0, 6.0, 7.0]);
    assert!((error - (11.0_f64 / 12.0).sqrt()).abs() < 1e-12);
    assert!((t + 2.5 / (11.0_f64 / 12.0).sqrt()).abs() < 1e-12);
}

#[test]
fn a_planted_difference_is_found_and_none_where_there_is_none() {
    let left = times(1, Duration::ZERO);
    let same = Compared::of(&left, &times(2, Duration::ZERO)).unwrap();
    assert!(same.t.abs() < THRESHOLD, "{same:?}");
    assert!((same.ratio() - 1.0).abs() < 0.01);

    let slower = Compared::of(&left, &times(2, Duration::from_micros(1))).unwrap();
    assert!(slower.t < -THRESHOLD, "{slower:?}");
    assert!(slower.ratio() < 1.0);
    let faster = Compared::of(&times(2, Duration::from_micros(1)), &left).unwrap();
    assert!(faster.t > THRESHOLD, "{faster:?}");

    // A sixteenth of that is less than what so many can tell, and they say so.
    let little = Duration::from_nanos(62);
    let hidden = Compared::of(&left, &times(2, little)).unwrap();
    assert!(hidden.t.abs() < THRESHOLD, "{hidden:?}");
    assert!(hidden.error * THRESHOLD > little.as_nanos() as f64);
}

#[test]
fn the_slowest_tenth_is_dropped_from_both_alike() {
    let compared = Compared::of(&times(1, Duration::ZERO), &times(2, Duration::ZERO)).unwrap();
    let kept = compared.counts[0] + compared.counts[1];
    assert!((3_600..=3_601).contains(&kept), "{kept}");
    assert!(compared.medians.iter().all(|median| *median < 110_000.0));
}

#[test]
fn samples_without_spread_differ_entirely_or_not_at_all() {
    let of = |micros| vec![Duration::from_micros(micros); 20];
    assert_eq!(Compared::of(&of(5), &of(5)).unwrap().t, 0.0);
    let t = Compared::of(&[of(5), of(9)].concat(), &of(5)).unwrap().t;
    assert!(t.is_finite());
    assert_eq!(welch(&[5.0; 9], &[6.0; 9]).0, f64::MIN);
    assert!(Compared::of(&of(5), &[]).is_none());
}
