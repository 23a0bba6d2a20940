//! Every verb, killed at every step: `kill -9` right before and right after each batch that the client makes durable,
//! and then the same for each transaction of the server. What was asked for comes true once, or is told; whoever saw
//! neither asks again. Nothing that was said is lost or told twice, and everybody talks on in the same epoch.

mod verbs;
mod world;

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use verbs::Verb;
use world::{Kept, Struck, UNREAD, World};

/// Verbs at once: most of the time each of them waits for one of its processes.
const WORLDS: usize = 6;
/// No verb has so many steps.
const STEPS: u64 = 400;
/// Days after which the server keeps no entry.
const RETENTION: u32 = 7;
/// Names the verbs to strike, as in `group invite`; all without it.
const ONLY: &str = "QPC_STEPS_ONLY";

type Strike = fn(&mut World, &Verb, u64) -> Struck;

/// Runs all verbs, several at once, each as often as it has steps, each time in a world that begins alike.
fn all(verbs: Vec<Verb>, of_the_client: bool, strike: Strike) {
    let begin = Instant::now();
    let only = std::env::var(ONLY).unwrap_or_default();
    let wanted = |verb: &Verb| name(verb).contains(&only);
    let verbs = Mutex::new(verbs.into_iter().filter(wanted).collect::<Vec<_>>());
    let first = World::first();
    thread::scope(|scope| {
        for _ in 0..WORLDS {
            scope.spawn(|| {
                let mut world = World::empty(&first);
                loop {
                    let verb = verbs.lock().unwrap().pop();
                    let Some(verb) = verb else { return };
                    at_every_step(&mut world, &first, &verb, of_the_client, strike);
                }
            });
        }
    });
    eprintln!("{:.1} s", begin.elapsed().as_secs_f32());
}

fn at_every_step(
    world: &mut World,
    first: &Arc<Kept>,
    verb: &Verb,
    of_the_client: bool,
    strike: Strike,
) {
    world.begin(&prepared(first, verb), verb.days, verb.proposes);
    let words = name(verb);
    let mut again = 0;
    for step in (0..STEPS).step_by(verb.stride) {
        let name = format!("{words}, step {step}");
        let struck = strike(world, verb, step);
        let asked_again = struck.done.code != 0 && recover(world, verb, &struck, &name);
        again += usize::from(asked_again);
        let stored = verb.stored_from.is_some_and(|from| of_the_client && step >= from);
        assert!(!asked_again || !stored, "{name}: what was stored did not come true by itself");
        // Each takes several processes: the one that says more is done more often. Steps are before and after something
        // by turns, so it is every third and fifth: now of the ones, now of the others.
        let now_and_then = step % 5 == 0 || !struck.killed;
        if verb.of_the_team || now_and_then {
            talk(world, verb, step, &name);
        }
        if now_and_then || (!verb.of_the_team && step % 3 == 0) {
            (verb.check)(world);
        }
        if !struck.killed {
            eprintln!("{words}: {step} steps, {again} times asked again");
            return;
        }
    }
    panic!("{words} does not end by itself");
}

fn name(verb: &Verb) -> String {
    let mut name = format!("{} {}", verb.by, verb.words.join(" "));
    if verb.proposes {
        name += " (proposed)";
    }
    if let Some((by, words)) = verb.before.last() {
        name += &format!(" (after {by} {})", words.join(" "));
    }
    if verb.restored {
        name += " (restored)";
    }
    if verb.days > 0 {
        name += &format!(" ({} days later)", verb.days);
    }
    name
}

/// What a verb begins with.
fn prepared(first: &Arc<Kept>, verb: &Verb) -> Arc<Kept> {
    if verb.before.is_empty() {
        assert!(!verb.restored);
        return Arc::clone(first);
    }
    let mut world = World::empty(first);
    world.put_back(None);
    for (by, words) in verb.before {
        let done = world.run(by, words);
        assert_eq!(done.code, 0, "{}", done.err);
    }
    if verb.restored {
        world.restore(verb.by);
    }
    world.keep()
}

/// As a person would: looks, and asks again for what did not happen. Whether that was needed: it must not be once the
/// wish was stored.
fn recover(world: &World, verb: &Verb, struck: &Struck, name: &str) -> bool {
    assert!(struck.killed, "{name}: {}", struck.done.err);
    if (verb.is_true)(world) {
        return false;
    }
    let done = world.run(verb.by, verb.words);
    let told = done.code == 0 || verb.again.contains(&done.code);
    assert!(told, "{name}, again: {}", done.err);
    true
}

/// Everybody goes on.
fn talk(world: &World, verb: &Verb, step: u64, name: &str) {
    let (speaker, listeners) = verb.talkers.split_first().unwrap();
    let turn = usize::try_from(step).unwrap() % listeners.len();
    let listener = listeners[turn];
    let done = world.run(speaker, &["send", &world.start().team, "and on", "--timeout", "30"]);
    assert_eq!(done.code, 0, "{name}: {}", done.err);
    let done = world.run(listener, &["recv"]);
    assert_eq!(done.code, 0, "{name}: {}", done.err);
    let got = done.objects();
    let last = got.iter().rfind(|message| message["text"] == "and on");
    let last = last.unwrap_or_else(|| panic!("{name}: {listener} got {got:?}, {}", done.err));
    if let Some(epochs) = verb.epochs {
        assert_eq!(last["epoch"], world.start().epoch + epochs, "{name}");
    }
    if step % 5 == 1 {
        let heard = world.hear(speaker);
        let times = usize::from(verb.days < RETENTION);
        assert_eq!(heard.iter().filter(|text| *text == UNREAD).count(), times, "{name}: {heard:?}");
    }
}

fn verbs() -> Vec<Verb> {
    [
        verbs::of_the_team(),
        verbs::of_followers(),
        verbs::of_devices(),
        verbs::of_people(),
        // The last ones are struck first: these take longest.
        verbs::of_the_lost(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The client dies: before and after each of its batches.
#[test]
fn every_verb_survives_its_client() {
    all(verbs(), true, |world, verb, step| {
        world.put_back(None);
        world.killed(verb.by, verb.words, step)
    });
}

/// The server dies before and after each of its transactions, and is started again. Its first moment is before its
/// store is open.
#[test]
fn every_verb_survives_the_server() {
    all(verbs(), false, |world, verb, step| {
        world.put_back(Some(step + 1));
        world.abandoned(verb.by, verb.words)
    });
}
