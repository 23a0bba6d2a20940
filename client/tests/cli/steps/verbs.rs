//! The verbs that are struck down, and how one sees whether their wish came true: once.

use serde_json::Value;

use super::world::{UNREAD, World};

/// A command line; `<server>` stands for the server's address, `<second>` for the id of that device.
pub(super) type Words = &'static [&'static str];

/// A verb, and what is to be true when it is through, however often it was struck down.
pub(super) struct Verb {
    pub(super) by: &'static str,
    pub(super) words: Words,
    /// Whether who is to be added or removed is proposed, as after three lost races, and then committed by whoever is
    /// first.
    pub(super) proposes: bool,
    /// What others do first, undisturbed.
    pub(super) before: &'static [(&'static str, Words)],
    /// Whether the home of who runs it is put back then, from a copy made before that.
    pub(super) restored: bool,
    /// How many days later it is run.
    pub(super) days: u32,
    /// Of so many steps one is struck: 1, unless each strike takes too long for more. Odd: steps are before and after
    /// something by turns.
    pub(super) stride: usize,
    /// Whether its wish has come true, looked at by commands that a person would run; what was queued goes out with
    /// them. Whoever sees that it has not runs the verb again.
    pub(super) is_true: fn(&World) -> bool,
    /// From which moment of its own process on its wish is stored, and comes true without being asked for again: 1,
    /// right after the first batch, unless something has to be asked of the server before. `None`: it is a question
    /// that the server answers, or several wishes one after the other.
    pub(super) stored_from: Option<u64>,
    /// Exit codes of running it again, besides 0: it says that there is nothing left to do.
    pub(super) again: &'static [i32],
    /// How many epochs of the team it takes, whoever commits, until the next message is sent there.
    pub(super) epochs: Option<u64>,
    /// Whether the talk says more of it than `check`.
    pub(super) of_the_team: bool,
    /// Who can talk in the team afterwards: the first, who has not read everything, speaks, the others listen.
    pub(super) talkers: &'static [&'static str],
    /// What else has to hold.
    pub(super) check: fn(&World),
}

const ALL: &[&str] = &["alice", "bob", "second", "carol"];

/// A verb of Alice's that takes one epoch of the team.
const COMMIT: Verb = Verb {
    by: "alice",
    words: &[],
    proposes: false,
    before: &[],
    restored: false,
    days: 0,
    stride: 1,
    is_true: |world| world.team("alice")["epoch"] != world.start().epoch,
    stored_from: Some(1),
    again: &[],
    epochs: Some(1),
    of_the_team: true,
    talkers: ALL,
    check: |_| {},
};

/// A verb of Alice's that has nothing to do with the team.
const ASIDE: Verb = Verb {
    epochs: Some(0),
    of_the_team: false,
    talkers: &["alice", "bob"],
    stored_from: None,
    ..COMMIT
};

fn members(world: &World, by: &str, of: &str) -> Vec<String> {
    let listed = world.device(by).ok(&["group", "members", of]);
    let mut names: Vec<_> =
        listed.iter().map(|member| member["username"].as_str().unwrap_or("?").to_owned()).collect();
    names.sort();
    names
}

fn named(groups: &[Value], name: &str) -> usize {
    groups.iter().filter(|group| group["name"] == name).count()
}

fn trust(world: &World, username: &str) -> Value {
    let contacts = world.device("alice").ok(&["trust", "list"]);
    let of = contacts.iter().find(|contact| contact["username"] == username);
    of.map_or(Value::Null, |contact| contact["trust"].clone())
}

/// Devices of Alice's account that are not revoked.
fn devices(world: &World) -> usize {
    let listed = world.device("alice").ok(&["devices", "list"]);
    listed.iter().filter(|device| device["revoked"] == false).count()
}

/// The classical group, as `by` has it now.
fn old(world: &World, by: &str) -> Value {
    let listed = world.listed(by);
    listed.into_iter().find(|group| group["name"] == "old").unwrap()
}

/// Alice's third device is added by the others when they hear of it, sooner or later: no command waits for that.
fn the_third_is_in(world: &World) {
    assert!((0..20).any(|_| world.team("alice")["members"] == 5));
    world.device("alice").send("team", "for the third");
    assert_eq!(world.device("third").texts().last().unwrap(), "for the third");
    assert_eq!(members(world, "bob", "team").len(), 5);
}

/// What changes the team.
pub(super) fn of_the_team() -> Vec<Verb> {
    vec![
        Verb { words: &["group", "update", "team"], ..COMMIT },
        Verb {
            words: &["group", "set", "team", "--name", "harbour", "--description", "sailing"],
            check: |world| assert_eq!(world.team("bob")["name"], "harbour"),
            ..COMMIT
        },
        Verb {
            words: &["group", "role", "team", "bob", "admin"],
            stored_from: Some(3),
            check: |world| {
                let members = world.device("carol").ok(&["group", "members", "team"]);
                let admins = members.iter().filter(|member| member["admin"] == true);
                // Bob's device, and two of Alice's.
                assert_eq!(admins.count(), 3);
            },
            ..COMMIT
        },
        Verb {
            words: &["group", "invite", "team", "dave"],
            talkers: &["alice", "dave", "bob"],
            check: |world| assert_eq!(members(world, "carol", "team").len(), 5),
            ..COMMIT
        },
        Verb {
            words: &["group", "remove", "team", "carol"],
            stored_from: Some(3),
            talkers: &["alice", "bob", "second"],
            check: |world| {
                assert_eq!(world.team("carol")["member"], false);
                assert_eq!(members(world, "bob", "team").len(), 3);
            },
            ..COMMIT
        },
        Verb {
            words: &["group", "invite", "team", "dave"],
            proposes: true,
            talkers: &["alice", "dave", "bob"],
            check: |world| assert_eq!(members(world, "carol", "team").len(), 5),
            ..COMMIT
        },
        Verb {
            words: &["group", "remove", "team", "carol"],
            stored_from: Some(3),
            proposes: true,
            talkers: &["alice", "bob", "second"],
            check: |world| {
                assert_eq!(world.team("carol")["member"], false);
                assert_eq!(members(world, "bob", "team").len(), 3);
            },
            ..COMMIT
        },
        Verb {
            words: &["group", "reset", "team"],
            stored_from: Some(3),
            is_true: |world| world.team("alice")["generation"] != world.start().generation,
            epochs: None,
            check: |world| assert_eq!(world.team("bob")["generation"], 2),
            ..COMMIT
        },
        Verb {
            words: &["group", "reset", "old", "--suite", "hybrid"],
            before: &[
                ("alice", &["group", "create", "old", "--classical"]),
                ("alice", &["group", "invite", "old", "bob"]),
                ("bob", &["send", "old", "before"]),
            ],
            is_true: |world| old(world, "alice")["generation"] == 2,
            stored_from: Some(3),
            check: |world| {
                world.device("alice").send("old", "after");
                bob_heard_carol_once(world);
                assert_eq!(world.hear("bob").last().unwrap(), "after");
                assert!(world.hear("alice").contains(&"before".to_owned()));
                for name in ["alice", "bob"] {
                    let old = old(world, name);
                    assert_eq!((&old["generation"], &old["suite"]), (&2.into(), &"hybrid".into()));
                }
            },
            ..ASIDE
        },
        Verb { words: &["group", "rejoin", "team"], ..COMMIT },
        // Whoever leaves proposes it, and somebody else commits it.
        Verb {
            by: "bob",
            words: &["group", "leave", "team"],
            is_true: |world| world.team("bob")["authenticator"].is_null(),
            talkers: &["alice", "carol"],
            check: |world| assert_eq!(members(world, "carol", "team").len(), 3),
            ..COMMIT
        },
        Verb {
            words: &["recv"],
            before: &[("bob", &["group", "leave", "team"])],
            is_true: |_| true,
            talkers: &["alice", "carol"],
            check: |world| assert_eq!(members(world, "carol", "team").len(), 3),
            ..COMMIT
        },
        // Her keys are older than she allows. The others allow them seven days.
        Verb {
            words: &["recv", "--update-days", "2"],
            days: 3,
            stored_from: None,
            check: |world| assert_eq!(world.team("bob")["epoch"], world.start().epoch + 1),
            ..COMMIT
        },
    ]
}

/// Bob hears what became of the team.
const FOLLOW: Verb =
    Verb { by: "bob", words: &["recv"], is_true: |_| true, stored_from: None, ..COMMIT };

fn bob_heard_carol_once(world: &World) {
    let heard = world.hear("bob");
    assert_eq!(heard.iter().filter(|text| *text == UNREAD).count(), 1, "{heard:?}");
}

/// Those who hear what others changed.
pub(super) fn of_followers() -> Vec<Verb> {
    vec![
        Verb {
            before: &[("alice", &["group", "reset", "team"])],
            epochs: None,
            check: |world| {
                bob_heard_carol_once(world);
                assert_eq!(world.team("bob")["generation"], 2);
                assert_eq!(
                    world.team("bob")["authenticator"],
                    world.team("alice")["authenticator"]
                );
            },
            ..FOLLOW
        },
        Verb {
            before: &[("alice", &["group", "remove", "team", "carol"])],
            talkers: &["alice", "bob", "second"],
            check: |world| {
                bob_heard_carol_once(world);
                assert_eq!(members(world, "bob", "team").len(), 3);
            },
            ..FOLLOW
        },
        Verb {
            before: &[("alice", &["group", "remove", "team", "bob"])],
            talkers: &["alice", "second", "carol"],
            check: |world| {
                bob_heard_carol_once(world);
                assert_eq!(world.team("bob")["member"], false);
                assert_eq!(
                    world.device("bob").fails(&["send", "team", "still here"]).1,
                    "E132 NotMember"
                );
            },
            ..FOLLOW
        },
        Verb {
            before: &[("alice", &["devices", "revoke", "<second>"])],
            talkers: &["alice", "bob", "carol"],
            check: |world| {
                bob_heard_carol_once(world);
                assert_eq!(members(world, "bob", "team").len(), 3);
            },
            ..FOLLOW
        },
    ]
}

/// Bob comes back into the team by himself, and reads what is said after.
const COME_BACK: Verb = Verb {
    is_true: |world| {
        (0..20).any(|_| world.team("bob")["epoch"].as_u64() > Some(world.start().epoch))
    },
    check: |world| {
        world.device("bob").send("team", "here again");
        assert!(world.hear("carol").contains(&"here again".to_owned()));
        world.device("carol").send("team", "good");
        assert!(world.hear("bob").contains(&"good".to_owned()));
        assert_eq!(world.team("bob")["authenticator"], world.team("carol")["authenticator"]);
    },
    ..FOLLOW
};

/// Those who have to come back.
pub(super) fn of_the_lost() -> Vec<Verb> {
    vec![
        // Away for longer than entries are kept. The others have read everything.
        Verb {
            before: &[
                ("alice", &["send", "team", "gone by then"]),
                ("alice", &["recv"]),
                ("second", &["recv"]),
                ("carol", &["recv"]),
            ],
            days: 8,
            // What the server says to be gone is asked for again, five seconds later.
            stride: 7,
            // After so many days everybody has fresh keys.
            epochs: None,
            ..COME_BACK
        },
        // From a backup.
        Verb {
            before: &[
                ("bob", &["recv"]),
                ("bob", &["send", "team", "since the copy"]),
                ("carol", &["recv"]),
                ("bob", &["group", "update", "team"]),
                ("carol", &["recv"]),
            ],
            restored: true,
            ..COME_BACK
        },
    ]
}

/// What changes accounts, devices and their keys.
pub(super) fn of_devices() -> Vec<Verb> {
    vec![
        Verb {
            words: &["devices", "rotate"],
            stored_from: Some(3),
            is_true: |world| {
                world.listed("alice");
                world.since() != world.start().since
            },
            // The groups follow by themselves.
            epochs: None,
            check: |world| {
                assert_eq!(world.team("alice")["epoch"], world.start().epoch + 1);
                assert_eq!(world.team("bob")["epoch"], world.start().epoch + 1);
            },
            ..COMMIT
        },
        Verb {
            words: &["devices", "revoke", "<second>"],
            stored_from: None,
            is_true: |world| devices(world) == 1,
            talkers: &["alice", "bob", "carol"],
            check: |world| {
                assert_eq!(world.device("second").fails(&["recv"]).0, 4);
                assert_eq!(members(world, "bob", "team").len(), 3);
            },
            ..COMMIT
        },
        Verb {
            by: "third",
            words: &["login", "alice", "--server", "<server>"],
            is_true: |_| false,
            // Another device of the account adds it when it hears of it.
            check: |world| {
                assert_eq!(devices(world), 3);
                the_third_is_in(world);
            },
            epochs: None,
            ..ASIDE
        },
        Verb {
            words: &["recv"],
            before: &[("third", &["login", "alice", "--server", "<server>"])],
            is_true: |_| true,
            epochs: None,
            check: the_third_is_in,
            ..ASIDE
        },
        Verb {
            by: "frank",
            words: &["register", "frank", "--server", "<server>"],
            is_true: |_| false,
            check: |world| {
                world.device("alice").send("@frank", "welcome");
                assert_eq!(world.device("frank").texts(), ["welcome"]);
            },
            ..ASIDE
        },
        Verb {
            words: &["keys", "refresh"],
            is_true: |_| false,
            check: |world| {
                let keys = world.device("alice").ok(&["keys", "status"]);
                assert!((20..=100).contains(&keys[0]["available"].as_u64().unwrap()), "{keys:?}");
                world.device("dave").send("@alice", "by a fresh one");
                assert!(world.hear("alice").contains(&"by a fresh one".to_owned()));
            },
            ..ASIDE
        },
        Verb {
            by: "erin",
            words: &["logout"],
            is_true: |_| false,
            again: &[4],
            check: |world| {
                world.device("erin").ok(&["login"]);
                world.device("erin").send("@dave", "in again");
                assert_eq!(world.device("dave").texts(), ["in again"]);
            },
            ..ASIDE
        },
        Verb {
            by: "erin",
            words: &["delete-account", "--yes"],
            is_true: |_| false,
            again: &[4],
            check: |world| {
                assert_eq!(
                    world.device("alice").fails(&["verify", "erin"]).1,
                    "E017 AccountUnknown"
                );
            },
            ..ASIDE
        },
    ]
}

/// What makes groups, what is said in them, and whom names stand for.
pub(super) fn of_people() -> Vec<Verb> {
    vec![
        Verb {
            words: &["group", "create", "pottery"],
            stored_from: Some(1),
            is_true: |world| named(&world.listed("alice"), "pottery") > 0,
            check: |world| {
                assert_eq!(named(&world.listed("alice"), "pottery"), 1);
                world.device("alice").ok(&["group", "invite", "pottery", "erin"]);
                world.device("alice").send("pottery", "clay");
                assert_eq!(world.device("erin").texts(), ["clay"]);
            },
            ..ASIDE
        },
        // Opens the direct channel first.
        Verb {
            words: &["send", "@dave", "out of the blue"],
            is_true: |world| {
                world.listed("alice");
                world.hear("dave").contains(&"out of the blue".to_owned())
            },
            check: |world| {
                assert_eq!(world.hear("dave"), ["out of the blue"]);
                assert!(world.hear("second").contains(&"out of the blue".to_owned()));
                assert_eq!(named(&world.listed("alice"), "dave"), 1);
                assert_eq!(members(world, "dave", "@alice"), ["alice", "alice", "dave"]);
            },
            ..ASIDE
        },
        Verb {
            words: &["recv"],
            before: &[
                ("bob", &["group", "update", "team"]),
                ("carol", &["send", "team", "more"]),
                ("dave", &["send", "@alice", "aside"]),
            ],
            is_true: |_| true,
            check: |world| {
                let mut heard = world.hear("alice");
                heard.sort();
                assert_eq!(heard, ["aside", "more", UNREAD]);
            },
            ..ASIDE
        },
        Verb {
            words: &["verify", "dave", "--mark"],
            before: &[("alice", &["verify", "dave"])],
            is_true: |world| trust(world, "dave") == "verified",
            ..ASIDE
        },
        Verb {
            words: &["verify", "dave"],
            is_true: |world| trust(world, "dave") == "seen",
            ..ASIDE
        },
        Verb {
            words: &["trust", "forget", "bob"],
            is_true: |world| trust(world, "bob").is_null(),
            ..ASIDE
        },
    ]
}
