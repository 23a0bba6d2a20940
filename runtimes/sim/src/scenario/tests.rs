//! The three ways to a scenario.

use super::*;

#[test]
fn what_is_printed_is_read_again() {
    for seed in 0..50 {
        let drawn = Scenario::draw(seed, 100, Crypto::Portable);
        assert_eq!(drawn.to_string().parse(), Ok(drawn.clone()), "seed {seed}");
        assert!((DEVICES_LEAST..=DEVICES).contains(&drawn.setting.accounts.len()));
        let beginning = draw::beginning(&drawn.setting, 0).len() / 2;
        assert!(drawn.operations() >= 100 + beginning, "seed {seed}");
    }
}

#[test]
fn one_seed_is_one_scenario_and_another_is_another() {
    let of = |seed| Scenario::draw(seed, 60, Crypto::Portable);
    assert_eq!(of(7), of(7));
    assert_ne!(of(7).steps, of(8).steps);
}

#[test]
fn each_seed_has_a_mix_of_its_own() {
    let kinds = |seed| {
        let steps = Scenario::draw(seed, 400, Crypto::Portable).steps;
        let mut kinds: Vec<_> = steps.into_iter().map(|step| step.parts().0).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    };
    let mixes: Vec<_> = (0..40).map(kinds).collect();
    for (number, kind) in Step::KINDS.iter().enumerate() {
        let with = mixes.iter().filter(|mix| mix.contains(&number)).count();
        assert!(with > 0, "nobody draws {}", kind.word);
    }
    assert!(mixes.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn any_bytes_are_a_scenario() {
    let mut bytes = Vec::new();
    for byte in 0..2_000_u32 {
        let scenario = Scenario::decode(&bytes);
        assert!((1..=DEVICES).contains(&scenario.setting.accounts.len()));
        assert_eq!(scenario.to_string().parse(), Ok(scenario));
        bytes.push((byte.wrapping_mul(2_654_435_761) >> 24) as u8);
    }
    assert!(Scenario::decode(&[0xFF; 100_000]).steps.len() <= STEPS);
}

#[test]
fn a_text_that_is_none_says_where() {
    let wrong = [
        ("accounts 0\nsing device=0", 2),
        ("accounts 0\nsend device=0 tune=1", 2),
        ("accounts 0\nsend device=70000", 2),
        ("accounts 1", 1),
        ("seed 1\nlinks two", 2),
        ("seed 1", 1),
    ];
    for (text, line) in wrong {
        let misread = text.parse::<Scenario>().unwrap_err();
        assert_eq!(misread.line, line, "{text}: {misread}");
    }
}

/// A world without a fault is the exception.
#[test]
fn most_worlds_have_faults() {
    let is_fault = |step: &Step| step.kind().class == Class::Fault;
    let without = (0..308)
        .filter(|seed| !Scenario::draw(*seed, 200, Crypto::Insecure).steps.iter().any(is_fault));
    assert!(without.count() < 308 / 20);
}

/// More than a week passes in a good share of them.
#[test]
fn days_pass_in_many_worlds() {
    let days = |seed| {
        let steps = Scenario::draw(seed, 200, Crypto::Insecure).steps.into_iter();
        steps.map(|step| if let Step::Days { days } = step { days } else { 0 }).sum::<u16>()
    };
    assert!((0..308).filter(|seed| days(*seed) > 7).count() > 308 / 2);
}
