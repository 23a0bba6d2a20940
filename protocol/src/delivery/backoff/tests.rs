use super::*;

fn entropy() -> Entropy {
    Entropy::from_seed([1; 32])
}

#[test]
fn ceilings_double_from_first_to_most() {
    let (mut backoff, mut entropy) = (Backoff::new(), entropy());
    let mut ceilings = Vec::new();
    for _ in 0..40 {
        let ceiling = backoff.ceiling();
        assert!(backoff.lost(Duration::ZERO, &mut entropy) <= ceiling);
        ceilings.push(ceiling);
    }
    assert_eq!(ceilings[0], BACKOFF_FIRST);
    for pair in ceilings.windows(2) {
        assert_eq!(pair[1], (pair[0] * 2).min(BACKOFF_MOST));
    }
    assert_eq!(*ceilings.last().unwrap(), BACKOFF_MOST);
}

#[test]
fn endless_failures_stay_at_the_most() {
    let mut backoff = Backoff { failures: u32::MAX, up_since: None };
    assert_eq!(backoff.ceiling(), BACKOFF_MOST);
    assert!(backoff.lost(Duration::ZERO, &mut entropy()) <= BACKOFF_MOST);
    assert_eq!(backoff.ceiling(), BACKOFF_MOST);
}

/// Full jitter: the whole range is used, evenly. 4,000 draws into eight parts put 500 into each, give or take 21;
/// the seed is fixed, so this holds always or never.
#[test]
fn delays_fill_the_whole_range() {
    let mut entropy = entropy();
    let mut parts = [0u32; 8];
    for _ in 0..4_000 {
        let delay = Backoff { failures: 3, up_since: None }.lost(Duration::ZERO, &mut entropy);
        parts[(delay.as_nanos() * 8 / (BACKOFF_FIRST * 8 + Duration::from_nanos(1)).as_nanos())
            as usize] += 1;
    }
    assert!(parts.iter().all(|count| (400..600).contains(count)), "{parts:?}");
}

#[test]
fn draws_reach_both_ends() {
    let mut entropy = entropy();
    let draws: Vec<_> = (0..200).map(|_| uniform(Duration::from_nanos(3), &mut entropy)).collect();
    for nanos in 0..=3 {
        assert!(draws.contains(&Duration::from_nanos(nanos)), "{nanos}");
    }
    assert!(draws.iter().all(|draw| *draw <= Duration::from_nanos(3)));
    assert_eq!(uniform(Duration::ZERO, &mut entropy), Duration::ZERO);
}

#[test]
fn a_session_that_stood_starts_over() {
    let (mut backoff, mut entropy) = (Backoff::new(), entropy());
    let second = Duration::from_secs(1);
    for _ in 0..5 {
        backoff.lost(Duration::ZERO, &mut entropy);
    }
    backoff.opened(second);
    assert_eq!(backoff.ceiling(), BACKOFF_FIRST * 32);
    assert!(backoff.lost(second + BACKOFF_STEADY, &mut entropy) <= BACKOFF_FIRST);
    assert_eq!(backoff.ceiling(), BACKOFF_FIRST * 2);
}

#[test]
fn a_session_that_fell_at_once_is_one_more_failure() {
    let (mut backoff, mut entropy) = (Backoff::new(), entropy());
    let mut now = Duration::ZERO;
    for failures in 1..=5 {
        backoff.opened(now);
        now += BACKOFF_STEADY - Duration::from_nanos(1);
        backoff.lost(now, &mut entropy);
        assert_eq!(backoff.ceiling(), BACKOFF_FIRST * 2u32.pow(failures));
    }
    // That it stood once does not count twice: the attempt after this one never opened.
    backoff.opened(now);
    backoff.lost(now + BACKOFF_STEADY, &mut entropy);
    backoff.lost(now + BACKOFF_STEADY * 2, &mut entropy);
    assert_eq!(backoff.ceiling(), BACKOFF_FIRST * 4);
}

#[test]
fn a_clock_set_back_is_no_steady_session() {
    let (mut backoff, mut entropy) = (Backoff::new(), entropy());
    backoff.lost(Duration::ZERO, &mut entropy);
    backoff.opened(Duration::from_secs(100));
    backoff.lost(Duration::ZERO, &mut entropy);
    assert_eq!(backoff.ceiling(), BACKOFF_FIRST * 4);
}

#[test]
fn a_reset_makes_the_next_delay_a_first_one() {
    let (mut backoff, mut entropy) = (Backoff::new(), entropy());
    for _ in 0..9 {
        backoff.lost(Duration::ZERO, &mut entropy);
    }
    backoff.reset();
    assert_eq!(backoff.ceiling(), BACKOFF_FIRST);
}

#[test]
fn one_seed_gives_one_row_of_delays() {
    let row = |seed| {
        let (mut backoff, mut entropy) = (Backoff::new(), Entropy::from_seed([seed; 32]));
        (0..20).map(|_| backoff.lost(Duration::ZERO, &mut entropy)).collect::<Vec<_>>()
    };
    assert_eq!(row(1), row(1));
    assert_ne!(row(1), row(2));
}
