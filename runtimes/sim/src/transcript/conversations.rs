//! The conversations that are written down. Each ends with what has to have come of it.

use std::time::Duration;

use qpc_protocol::client::event::Event;
use qpc_protocol::mls::suite::Suite;

use super::Conversation;
use super::command::Command;
use super::stage::Stage;

/// All of them.
pub const CONVERSATIONS: &[Conversation] = &[
    Conversation { name: "register", about: "Alice makes an account.", play: register },
    Conversation {
        name: "login",
        about: "Alice makes an account on one device and logs in on another, which recovers the account key.",
        play: login,
    },
    Conversation {
        name: "resume",
        about: "Alice's device comes back: by its access token, after a crash from its records, and by its refresh \
                token when the other is over.",
        play: resume,
    },
    Conversation {
        name: "group-of-three",
        about: "Alice makes a group of the classical suite, invites Bob and Carol; all three write.",
        play: |stage| group_of_three(stage, Suite::Classical),
    },
    Conversation {
        name: "group-of-three-hybrid",
        about: "The same with the hybrid suite.",
        play: |stage| group_of_three(stage, Suite::Hybrid),
    },
    Conversation {
        name: "commit-conflict",
        about: "Alice and Bob commit in the same epoch: one wins, the other's intent comes true in the next.",
        play: commit_conflict,
    },
    Conversation {
        name: "removal",
        about: "Alice removes Carol, who reads up to her removal and nothing after it.",
        play: removal,
    },
    Conversation {
        name: "external-rejoin",
        about: "Bob replaces his own leaf by an external commit and reads on.",
        play: external_rejoin,
    },
    Conversation {
        name: "second-device",
        about: "Bob logs in on a second device, which his first adds to their group; a message reaches both.",
        play: second_device,
    },
    Conversation {
        name: "key-package-expiry",
        about: "Bob is away for longer than his key packages hold: the last-resort one adds him, and is superseded when he is back.",
        play: key_package_expiry,
    },
];

fn register(stage: &mut Stage) {
    let alice = stage.register("alice");
    let (username, ..) = stage.world.client(alice).whoami().unwrap();
    assert_eq!(username.as_str(), "alice");
}

fn login(stage: &mut Stage) {
    let phone = stage.register("alice");
    let laptop = stage.device("alice-laptop");
    let (username, password) = ("alice".to_owned(), "password of alice".to_owned());
    stage.done(laptop, &Command::Login { username, password });
    stage.world.settle();
    let [one, other] = [phone, laptop].map(|device| stage.world.client(device).whoami().unwrap());
    assert_eq!(one.1.account, other.1.account);
    assert_ne!(one.1.device, other.1.device);
}

fn resume(stage: &mut Stage) {
    let alice = stage.register("alice");
    let online = |stage: &Stage| {
        let log = &stage.world.devices[alice].log;
        log.iter().filter(|event| matches!(event, Event::Online { .. })).count()
    };
    let before = online(stage);
    stage.give(alice, &Command::Disconnect);
    stage.world.run();
    stage.give(alice, &Command::Connect);
    stage.world.settle();
    stage.world.crash(alice);
    stage.world.start(alice);
    stage.world.settle();
    stage.give(alice, &Command::Disconnect);
    stage.world.run();
    stage.skip(Duration::from_secs(2 * 60 * 60));
    stage.give(alice, &Command::Connect);
    stage.world.settle();
    assert_eq!(online(stage), before + 3);
    assert!(stage.sent("request.refresh"));
}

fn group_of_three(stage: &mut Stage, suite: Suite) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| stage.register(name));
    let channel = stage.group(alice, suite, &["bob", "carol"]);
    for (device, text) in [(alice, "Good morning!"), (bob, "Hello, Alice."), (carol, "Hello!")] {
        stage.say(device, channel, text);
    }
    assert_eq!(stage.heard(alice), ["Hello, Alice.", "Hello!"]);
    assert_eq!(stage.heard(bob), ["Good morning!", "Hello!"]);
    assert_eq!(stage.heard(carol), ["Good morning!", "Hello, Alice."]);
    let seq = stage.world.group(bob, channel).cursor;
    stage.give(bob, &Command::Ack { channel, seq });
    stage.world.settle();
}

fn commit_conflict(stage: &mut Stage) {
    let [alice, bob] = ["alice", "bob"].map(|name| stage.register(name));
    let channel = stage.group(alice, Suite::Classical, &["bob"]);
    let before = stage.world.group(alice, channel).epoch;
    let tickets = [alice, bob].map(|device| {
        let ticket = stage.give(device, &Command::Update { channel });
        (device, ticket.unwrap())
    });
    for (device, ticket) in tickets {
        stage.world.outcome(device, ticket);
    }
    stage.world.settle();
    let [one, other] = [alice, bob].map(|device| stage.world.group(device, channel));
    assert_eq!((one.epoch, one.authenticator), (before + 2, other.authenticator));
    assert!(stage.sent("failure"));
}

fn removal(stage: &mut Stage) {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| stage.register(name));
    let channel = stage.group(alice, Suite::Classical, &["bob", "carol"]);
    stage.say(bob, channel, "All three of us.");
    let account = stage.world.client(carol).whoami().unwrap().1.account;
    stage.done(alice, &Command::Remove { channel, account });
    stage.world.settle();
    stage.say(bob, channel, "The two of us.");
    assert_eq!(stage.heard(alice), ["All three of us.", "The two of us."]);
    assert_eq!(stage.heard(carol), ["All three of us."]);
    let log = &stage.world.devices[carol].log;
    assert!(log.iter().any(|event| matches!(event, Event::Evicted { .. })));
}

fn external_rejoin(stage: &mut Stage) {
    let [alice, bob] = ["alice", "bob"].map(|name| stage.register(name));
    let channel = stage.group(alice, Suite::Classical, &["bob"]);
    stage.done(bob, &Command::Rejoin { channel });
    stage.world.settle();
    stage.say(alice, channel, "You are back.");
    assert_eq!(stage.heard(bob), ["You are back."]);
    let log = &stage.world.devices[bob].log;
    assert!(log.iter().any(|event| matches!(event, Event::Rejoined { .. })));
    assert!(stage.sent("request.groupInfoFetch"));
}

fn second_device(stage: &mut Stage) {
    let [alice, bob] = ["alice", "bob"].map(|name| stage.register(name));
    let channel = stage.group(alice, Suite::Classical, &["bob"]);
    let laptop = stage.device("bob-laptop");
    let (username, password) = ("bob".to_owned(), "password of bob".to_owned());
    stage.done(laptop, &Command::Login { username, password });
    stage.world.until(|world| world.groups(laptop).iter().any(|group| group.channel == channel));
    stage.world.settle();
    stage.say(alice, channel, "To both of you.");
    assert_eq!(stage.heard(bob), ["To both of you."]);
    assert_eq!(stage.heard(laptop), ["To both of you."]);
}

fn key_package_expiry(stage: &mut Stage) {
    let [alice, bob] = ["alice", "bob"].map(|name| stage.register(name));
    stage.world.crash(bob);
    stage.give(alice, &Command::Disconnect);
    stage.world.run();
    stage.skip(Duration::from_secs(25 * 60 * 60));
    stage.give(alice, &Command::Connect);
    stage.world.settle();
    let channel = stage.group(alice, Suite::Classical, &[]);
    let invite = Command::Invite { channel, username: "bob".into() };
    stage.done(alice, &invite);
    stage.world.start(bob);
    stage.world.settle();
    stage.say(alice, channel, "There you are.");
    assert_eq!(stage.heard(bob), ["There you are."]);
}
