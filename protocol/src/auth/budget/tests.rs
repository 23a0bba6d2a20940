use proptest::prelude::*;

use super::*;

const MINUTE: Rate = Rate { most: 100, window: Duration::from_secs(60) };

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn name(index: u32) -> Username {
    Username::prepare(&format!("user{index}")).unwrap()
}

#[test]
fn the_hundred_and_first_lookup_of_a_minute_is_refused() {
    let mut budget = Budget::new(MINUTE);
    for spent in 0..100 {
        assert_eq!(budget.spend(at(spent * 500)), Ok(()), "{spent}");
    }
    let wait = budget.spend(at(59_999)).unwrap_err();
    assert!(budget.spend(at(59_999) + wait - Duration::from_nanos(1)).is_err());
    assert_eq!(budget.spend(at(59_999) + wait), Ok(()));
}

#[test]
fn a_burst_is_back_after_nine_eighths_of_the_window() {
    let mut budget = Budget::new(MINUTE);
    for _ in 0..100 {
        budget.spend(at(0)).unwrap();
    }
    assert_eq!(budget.spend(at(0)), Err(at(67_500)));
    assert_eq!(budget.spend(at(67_499)), Err(at(1)));
    for _ in 0..100 {
        budget.spend(at(67_500)).unwrap();
    }
    assert!(budget.spend(at(67_500)).is_err());
}

#[test]
fn nothing_is_admitted_where_nothing_is_allowed() {
    for window in [Duration::ZERO, Duration::from_secs(1)] {
        let mut budget = Budget::new(Rate { most: 0, window });
        assert!(budget.spend(at(0)).is_err());
        assert!(budget.spend(at(1_000_000)).is_err());
    }
}

#[test]
fn what_was_given_back_can_be_spent_again() {
    let mut budget = Budget::new(Rate { most: 1, window: at(8_000) });
    budget.spend(at(500)).unwrap();
    assert!(budget.spend(at(600)).is_err());
    budget.give_back(at(500));
    budget.spend(at(600)).unwrap();
    // Once it no longer counts, it cannot be given back: 2 s and 20 s share a place in the ring.
    let mut budget = Budget::new(Rate { most: 1, window: at(8_000) });
    budget.spend(at(2_000)).unwrap();
    budget.spend(at(20_000)).unwrap();
    budget.give_back(at(2_000));
    assert!(budget.spend(at(20_000)).is_err());
}

#[test]
fn a_clock_set_back_admits_no_more() {
    let mut budget = Budget::new(Rate { most: 2, window: at(8_000) });
    budget.spend(at(100_000)).unwrap();
    budget.spend(at(0)).unwrap();
    assert!(budget.spend(at(0)).is_err());
    assert!(budget.spend(at(50_000)).is_err());
}

#[test]
fn the_end_of_time_is_no_trouble() {
    let mut budget = Budget::new(Rate { most: 1, window: Duration::from_nanos(1) });
    let _ = budget.spend(Duration::MAX);
    let _ = budget.spend(Duration::MAX);
    budget.give_back(Duration::MAX);
    let mut budget = Budget::new(Rate { most: 1, window: Duration::MAX });
    budget.spend(at(0)).unwrap();
    assert!(budget.spend(at(1)).is_err());
}

proptest! {
    /// Against a plain list of times: no stretch of a window holds more than `most`; nothing is refused for
    /// what is older than nine eighths of a window; and the wait that is named is the shortest that helps.
    #[test]
    fn budgets_keep_their_word(
        most in 1u32..6,
        window in 1u64..2_000,
        steps in prop::collection::vec(0u64..400, 1..200),
    ) {
        let rate = Rate { most, window: Duration::from_nanos(window) };
        let mut budget = Budget::new(rate);
        let mut spent = Vec::new();
        let mut now = 0u64;
        for step in steps {
            now += step;
            let within = |span: u64| spent.iter().filter(|then| now - **then <= span).count();
            match budget.clone().spend(Duration::from_nanos(now)) {
                Ok(()) => prop_assert!(within(window) < most as usize),
                Err(wait) => {
                    prop_assert!(within(9 * window.div_ceil(8)) >= most as usize);
                    let then = Duration::from_nanos(now) + wait;
                    prop_assert!(budget.wait(then).is_zero());
                    prop_assert!(!budget.wait(then - Duration::from_nanos(1)).is_zero());
                }
            }
            if budget.spend(Duration::from_nanos(now)).is_ok() {
                spent.push(now);
            }
        }
    }

    /// Many keys in one structure are as many budgets, while there is room for all of them.
    #[test]
    fn many_are_as_many_ones(steps in prop::collection::vec((0u8..6, 0u64..300, any::<bool>()), 1..200)) {
        let rate = Rate { most: 3, window: Duration::from_nanos(1_000) };
        let mut many = Budgets::new(rate, 6);
        let mut ones = vec![Budget::new(rate); 6];
        let mut now = Duration::ZERO;
        for (key, step, back) in steps {
            now += Duration::from_nanos(step);
            let one = &mut ones[usize::from(key)];
            let admitted = one.spend(now);
            prop_assert_eq!(many.spend(&key, now), admitted);
            if admitted.is_ok() && back {
                one.give_back(now);
                many.give_back(&key, now);
            }
        }
    }

    /// However many keys come, the memory stays, and its two indices agree.
    #[test]
    fn memory_is_bounded(
        keys in 0usize..8,
        steps in prop::collection::vec((0u32..40, 0u64..300), 1..200),
    ) {
        let mut many = Budgets::new(Rate { most: 2, window: Duration::from_nanos(1_000) }, keys);
        let mut now = Duration::ZERO;
        for (key, step) in steps {
            now += Duration::from_nanos(step);
            let _ = many.spend(&key, now);
            prop_assert!(many.remembered() <= keys.max(1));
            prop_assert_eq!(many.order.len(), many.windows.len());
            prop_assert!(many.order.iter().all(|(turn, key)| many.windows[key].1 == *turn));
        }
    }
}

#[test]
fn a_full_memory_forgets_whoever_was_quiet_longest() {
    let mut many = Budgets::new(Rate { most: 1, window: at(8_000) }, 2);
    many.spend(&'a', at(0)).unwrap();
    many.spend(&'b', at(1)).unwrap();
    many.spend(&'c', at(2)).unwrap();
    assert!(many.spend(&'b', at(3)).is_err());
    assert!(many.spend(&'c', at(3)).is_err());
    assert_eq!(many.spend(&'a', at(3)), Ok(()));
}

#[test]
fn the_memory_of_a_flood_goes_again() {
    let mut many = Budgets::new(Rate { most: 1, window: at(8_000) }, 1_000);
    for key in 0..1_000 {
        many.spend(&key, at(0)).unwrap();
    }
    for key in 0..1_000 {
        many.spend(&(10_000 + key % 3), at(20_000 + 10_000 * key)).unwrap();
    }
    assert!(many.remembered() <= 1_000 - 3);
    for key in 0..1_000 {
        many.spend(&(20_000 + key), at(20_000_000 + 10_000 * key)).unwrap();
    }
    assert!(many.remembered() <= 2, "{}", many.remembered());
}

#[test]
fn an_account_has_so_many_failures_known_or_not() {
    let mut budgets = LoginBudgets::new(LoginRates::default());
    for attempt in 0..LOGINS_PER_ACCOUNT {
        // From everywhere: the source does not matter.
        budgets.login(&name(1), &attempt.to_be_bytes(), at(0)).unwrap();
    }
    let limited = budgets.login(&name(1), b"elsewhere", at(0)).unwrap_err();
    assert_eq!(limited.whose, Whose::Account);
    assert!(budgets.login(&name(2), b"elsewhere", at(0)).is_ok());
    assert!(budgets.login(&name(1), b"elsewhere", limited.retry_after).is_ok());
}

#[test]
fn successful_logins_do_not_count_against_the_account() {
    let mut budgets = LoginBudgets::new(LoginRates { per_source: 1_000, ..LoginRates::default() });
    for _ in 0..5 * LOGINS_PER_ACCOUNT {
        let admitted = budgets.login(&name(1), b"here", at(0)).unwrap();
        budgets.succeeded(admitted);
    }
    for _ in 0..LOGINS_PER_ACCOUNT {
        budgets.login(&name(1), b"here", at(0)).unwrap();
    }
    assert!(budgets.login(&name(1), b"here", at(0)).is_err());
}

#[test]
fn a_source_has_so_many_logins_and_registrations() {
    let mut budgets = LoginBudgets::new(LoginRates::default());
    for attempt in 0..LOGINS_PER_SOURCE {
        if attempt % 2 == 0 {
            let admitted = budgets.login(&name(attempt), b"here", at(0)).unwrap();
            budgets.succeeded(admitted);
        } else {
            budgets.register(b"here", at(0)).unwrap();
        }
    }
    assert_eq!(budgets.login(&name(0), b"here", at(0)).unwrap_err().whose, Whose::Source);
    assert_eq!(budgets.register(b"here", at(0)).unwrap_err().whose, Whose::Source);
    assert!(budgets.register(b"there", at(0)).is_ok());
}

/// One source that knocks without end uses up its own part and nothing more.
#[test]
fn what_is_refused_uses_up_nothing() {
    let rates = LoginRates { per_account: 2, per_source: 5, in_all: 7 };
    let mut budgets = LoginBudgets::new(rates);
    for attempt in 0..100 {
        let _ = budgets.login(&name(attempt), b"bad", at(0));
        let _ = budgets.login(&name(0), b"bad", at(0));
        let _ = budgets.register(b"bad", at(0));
    }
    assert!(budgets.login(&name(1_000), b"good", at(0)).is_ok());
    assert!(budgets.register(b"good", at(0)).is_ok());
    assert_eq!(budgets.register(b"good", at(0)).unwrap_err().whose, Whose::All);
    assert!(budgets.register(b"good", LOGIN_WINDOW * 9 / 8).is_ok());
}

/// The victim's used-up budget outlives a flood of other names, however long it goes on: whoever guesses
/// cannot wash away what was counted against him.
#[test]
fn a_flood_forgets_nothing_that_counts() {
    let rates = LoginRates { per_account: 3, per_source: 1_000_000, in_all: 50 };
    let mut budgets = LoginBudgets::new(rates);
    let slice = LOGIN_WINDOW / 8;
    for _ in 0..3 {
        budgets.login(&name(0), b"x", at(0)).unwrap();
    }
    let mut admitted = 0;
    for step in 0..9 {
        for flood in 0..500 {
            let other = name(1 + step * 500 + flood);
            admitted +=
                u32::from(budgets.login(&other, &flood.to_be_bytes(), slice * step).is_ok());
        }
        let victim = budgets.login(&name(0), b"x", slice * step).unwrap_err();
        assert_eq!(victim.whose, Whose::Account, "slice {step}");
        assert!(budgets.accounts.remembered() <= 50);
        assert!(budgets.sources.remembered() <= 50);
    }
    assert_eq!(admitted, 47);
    assert!(budgets.login(&name(0), b"x", slice * 9).is_ok());
}

#[test]
fn the_whole_server_has_so_many() {
    let mut budgets = LoginBudgets::new(LoginRates::default());
    for attempt in 0..LOGINS_IN_ALL {
        budgets.login(&name(attempt), &attempt.to_be_bytes(), at(0)).unwrap();
    }
    assert_eq!(budgets.register(b"new", at(0)).unwrap_err().whose, Whose::All);
}

/// Names and addresses do not belong into logs.
#[test]
fn nothing_of_the_keys_is_printed() {
    let mut many = Budgets::new(MINUTE, 2);
    many.spend(&"planted", at(0)).unwrap();
    assert!(!format!("{many:?}").contains("planted"));
}
