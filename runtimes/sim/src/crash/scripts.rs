//! The scripts: together they give every command that a client has.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

use std::cell::Cell;
use std::rc::Rc;

use qpc_protocol::client::event::{Event, Outcome, Trust};
use qpc_protocol::client::{Client, ProfileChange, Role};
use qpc_protocol::env::Now;
use qpc_protocol::error::Refused;
use qpc_protocol::id::{AccountId, ChannelId};
use qpc_protocol::io::Ticket;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Reply};

use super::{Ask, Holds, Script, Wish};
use crate::world::{Rules, World};

const ALICE: usize = 0;
const BOB: usize = 1;
const CAROL: usize = 2;
/// A device without an account.
const FRESH: usize = 3;

/// All of them.
pub const ALL: &[Script] = &[
    Script { name: "account", past: people, wishes: account },
    Script { name: "questions", past: together, wishes: questions },
    Script { name: "second device", past: together, wishes: second_device },
    Script { name: "founding", past: people, wishes: founding },
    Script { name: "talk", past: together, wishes: talk },
    Script { name: "talk, hybrid", past: together_hybrid, wishes: talk },
    Script { name: "coming and going", past: together, wishes: coming_and_going },
    Script { name: "leaving", past: together, wishes: leaving },
    Script { name: "keys", past: together, wishes: keys },
    Script { name: "profile and roles", past: together, wishes: profile_and_roles },
    Script { name: "contention", past: admins, wishes: contention },
    Script { name: "direct", past: people, wishes: direct },
    Script { name: "reset", past: together, wishes: reset },
    Script { name: "rejoin", past: together, wishes: rejoin },
    Script { name: "trust", past: together, wishes: trust },
    Script { name: "another account", past: mistaken, wishes: acceptance },
    Script { name: "the end of an account", past: together, wishes: end_of_account },
];

// ---- pasts --------------------------------------------------------------------------------------

fn people() -> World {
    let mut world = World::new(Rules::new(1));
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    world.device();
    world.until(|world| {
        world.devices[..FRESH].iter().all(|d| d.client.as_ref().is_some_and(Client::is_idle))
    });
    world
}

fn group(suite: Suite) -> World {
    let mut world = people();
    let made = world.done(ALICE, |client, now| client.create_group(now, "g", suite));
    let Outcome::Group(channel) = made else { unreachable!("{made:?}") };
    for name in ["bob", "carol"] {
        world.done(ALICE, |client, now| client.invite(now, channel, name));
    }
    world
}

fn together() -> World {
    group(Suite::Classical)
}

fn together_hybrid() -> World {
    group(Suite::Hybrid)
}

fn admins() -> World {
    let mut world = together();
    let channel = named(&world, ALICE, "g").unwrap();
    for device in [BOB, CAROL] {
        let account = account_of(&world, device).unwrap();
        world.done(ALICE, |client, now| client.set_role(now, channel, account, Role::Admin));
    }
    world
}

/// A name that alice knows leads to somebody else by now.
fn mistaken() -> World {
    let mut world = people();
    let carol = account_of(&world, CAROL).unwrap();
    let bob = |client: &mut Client, now| client.lookup(now, "bob");
    world.done(ALICE, bob);
    world.liar = Some(Box::new(move |_, _, mut frame| {
        if let Body::Reply(Reply::Account { account, .. }) = &mut frame.body {
            *account = carol;
        }
        vec![frame]
    }));
    world.cut(ALICE);
    world.done(ALICE, bob);
    world.liar = None;
    world.cut(ALICE);
    world
}

// ---- looking ------------------------------------------------------------------------------------

fn named(world: &World, device: usize, name: &str) -> Option<ChannelId> {
    let groups = world.groups(device).into_iter();
    groups.filter(|group| group.name.as_deref() == Some(name)).map(|group| group.channel).next()
}

fn account_of(world: &World, device: usize) -> Option<AccountId> {
    let (_, sender, _) = world.devices[device].client.as_ref()?.whoami()?;
    Some(sender.account)
}

fn is_member(world: &World, device: usize, channel: ChannelId) -> bool {
    world.groups(device).iter().any(|group| group.channel == channel && group.member)
}

fn epoch(world: &World, device: usize, channel: ChannelId) -> Option<(u32, u64)> {
    let group = world.groups(device).into_iter().find(|group| group.channel == channel);
    group.map(|group| (group.generation, group.epoch))
}

fn heard(world: &World, device: usize, text: &str) -> bool {
    world.bodies(device).iter().any(|body| body == text)
}

fn may(world: &World, device: usize) -> Result<(), Refused> {
    world.devices[device].client.as_ref().map_or(Err(Refused::Stopped), Client::may_connect)
}

// ---- wishing ------------------------------------------------------------------------------------

fn wish(
    name: &'static str,
    by: usize,
    ask: impl Fn(&mut Client, Now) -> Result<Ticket, Refused> + 'static,
) -> Wish {
    let ask: Ask = Box::new(move |world| {
        let now = world.now_of(by);
        ask(world.client(by), now).map(Some)
    });
    Wish { name, by, kept: false, ask, holds: None }
}

impl Wish {
    /// It is kept once it is durable, and it has come true when that holds.
    fn kept_until(self, holds: impl Fn(&World) -> bool + 'static) -> Self {
        Self { kept: true, ..self.until(holds) }
    }

    fn until(self, holds: impl Fn(&World) -> bool + 'static) -> Self {
        let holds: Holds = Box::new(holds);
        Self { holds: Some(holds), ..self }
    }
}

fn says(by: usize, channel: ChannelId, text: &'static str, to: &'static [usize]) -> Wish {
    wish("send", by, move |client, now| client.send(now, channel, text.as_bytes()))
        .kept_until(move |world| to.iter().all(|device| heard(world, *device, text)))
}

fn reads(by: usize, channel: ChannelId) -> Wish {
    let ask: Ask = Box::new(move |world| {
        let now = world.now_of(by);
        let last = world.messages(by).iter().map(|message| message.seq).max().unwrap_or(0);
        world.client(by).ack(now, channel, last)?;
        world.client(by).prefer(now, channel)?;
        Ok(None)
    });
    Wish { name: "ack", by, kept: false, ask, holds: None }
}

fn invites(by: usize, channel: ChannelId, name: &'static str, device: usize) -> Wish {
    wish("invite", by, move |client, now| client.invite(now, channel, name))
        .kept_until(move |world| is_member(world, device, channel))
}

fn removes(world: &World, by: usize, channel: ChannelId, device: usize) -> Wish {
    let account = account_of(world, device).unwrap();
    let gone = move |world: &World| {
        let known = world.groups(by).into_iter().find(|group| group.channel == channel);
        known.is_some_and(|group| group.members < 3) && may(world, device).is_err()
            || !is_member(world, device, channel)
    };
    wish("remove", by, move |client, now| client.remove(now, channel, account)).kept_until(gone)
}

/// The epoch of a group at a device has to be a later one.
fn later_epoch(
    name: &'static str,
    by: usize,
    channel: ChannelId,
    ask: impl Fn(&mut Client, Now) -> Result<Ticket, Refused> + 'static,
) -> Wish {
    let before = Rc::new(Cell::new(None));
    let first = before.clone();
    let ask: Ask = Box::new(move |world| {
        first.set(first.get().or(epoch(world, by, channel)));
        let now = world.now_of(by);
        ask(world.client(by), now).map(Some)
    });
    let holds: Holds = Box::new(move |world| epoch(world, by, channel) > before.get());
    Wish { name, by, kept: true, ask, holds: Some(holds) }
}

fn password(name: &str) -> zeroize::Zeroizing<String> {
    format!("password of {name}").into()
}

/// Registers, or logs in if a crash left an account behind.
fn registers(by: usize, name: &'static str) -> Wish {
    let tries = Cell::new(0);
    wish("register", by, move |client, now| {
        tries.set(tries.get() + 1);
        if tries.get() % 2 == 1 && client.whoami().is_none() {
            client.register(now, name, password(name))
        } else {
            client.login(now, name, password(name))
        }
    })
    .until(move |world| may(world, by).is_ok())
}

fn logs_in(by: usize, name: &'static str) -> Wish {
    wish("login", by, move |client, now| client.login(now, name, password(name)))
        .until(move |world| may(world, by).is_ok())
}

// ---- the scripts --------------------------------------------------------------------------------

fn account(_: &World) -> Vec<Wish> {
    vec![
        wish("health", FRESH, Client::health),
        registers(FRESH, "dave"),
        wish("ping", FRESH, Client::ping),
        wish("refresh_key_packages", FRESH, Client::refresh_key_packages),
        wish("key_packages", FRESH, Client::key_packages),
        wish("logout", FRESH, Client::logout)
            .until(|world| may(world, FRESH) == Err(Refused::LoggedOut)),
        logs_in(FRESH, "dave"),
        wish("lookup", ALICE, |client, now| client.lookup(now, "dave")),
    ]
}

fn questions(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    let away: Ask = Box::new(|world| {
        let now = world.now_of(BOB);
        world.client(BOB).disconnect(now);
        Ok(None)
    });
    let back: Ask = Box::new(|world| {
        let now = world.now_of(BOB);
        world.client(BOB).connect(now);
        Ok(None)
    });
    let compare: Ask = Box::new(move |world| {
        let theirs = world.client(ALICE).checkpoint(channel)?.encode();
        let now = world.now_of(BOB);
        world.client(BOB).compare_checkpoint(now, channel, &theirs).map(Some)
    });
    vec![
        wish("devices", ALICE, Client::devices),
        wish("members", BOB, move |client, now| client.members(now, channel)),
        Wish { name: "disconnect", by: BOB, kept: false, ask: away, holds: None },
        Wish { name: "connect", by: BOB, kept: false, ask: back, holds: None },
        says(ALICE, channel, "to be proved", &[BOB, CAROL]),
        wish("proofs", ALICE, move |client, now| client.proofs(now, channel, 0, 10)),
        Wish { name: "compare", by: BOB, kept: false, ask: compare, holds: None },
    ]
}

fn second_device(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    let revoke: Ask = Box::new(|world| {
        let (_, sender, _) = world.client(FRESH).whoami().ok_or(Refused::NoAccount)?;
        let now = world.now_of(BOB);
        world.client(BOB).revoke(now, sender.device).map(Some)
    });
    let revoked: Holds = Box::new(move |world| {
        let ended = |event: &Event| matches!(event, Event::SessionEnded(_));
        let ended = ended_by(world, FRESH, ended) || may(world, FRESH).is_err();
        ended && world.group(ALICE, channel).members == 3
    });
    let joined = move |world: &World| may(world, FRESH).is_ok() && is_member(world, FRESH, channel);
    vec![
        Wish { holds: Some(Box::new(joined)), ..logs_in(FRESH, "bob") },
        says(FRESH, channel, "from the second", &[ALICE, BOB, CAROL]),
        Wish { name: "revoke", by: BOB, kept: false, ask: revoke, holds: Some(revoked) },
        says(CAROL, channel, "without it", &[ALICE, BOB]),
    ]
}

fn ended_by(world: &World, device: usize, is: impl Fn(&Event) -> bool) -> bool {
    world.devices[device].log.iter().any(is)
}

fn founding(_: &World) -> Vec<Wish> {
    let create = wish("create_group", ALICE, |client, now| {
        client.create_group(now, "new", Suite::Classical)
    });
    let invite: Ask = Box::new(|world| {
        let channel = named(world, ALICE, "new").ok_or(Refused::UnknownChannel)?;
        let now = world.now_of(ALICE);
        world.client(ALICE).invite(now, channel, "bob").map(Some)
    });
    let send: Ask = Box::new(|world| {
        let channel = named(world, BOB, "new").ok_or(Refused::UnknownChannel)?;
        let now = world.now_of(BOB);
        world.client(BOB).send(now, channel, b"I am in").map(Some)
    });
    let invited: Holds = Box::new(|world| {
        named(world, BOB, "new").is_some_and(|channel| is_member(world, BOB, channel))
    });
    let sent: Holds = Box::new(|world| heard(world, ALICE, "I am in"));
    vec![
        create.kept_until(|world| named(world, ALICE, "new").is_some()),
        Wish { name: "invite", by: ALICE, kept: true, ask: invite, holds: Some(invited) },
        Wish { name: "send", by: BOB, kept: true, ask: send, holds: Some(sent) },
    ]
}

fn talk(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    vec![
        says(ALICE, channel, "one", &[BOB, CAROL]),
        reads(BOB, channel),
        says(BOB, channel, "two", &[ALICE, CAROL]),
        says(ALICE, channel, "three", &[BOB, CAROL]),
        reads(CAROL, channel),
        says(CAROL, channel, "four", &[ALICE, BOB]),
    ]
}

fn coming_and_going(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    vec![
        removes(world, ALICE, channel, BOB),
        says(CAROL, channel, "without bob", &[ALICE]),
        invites(ALICE, channel, "bob", BOB),
        says(BOB, channel, "again", &[ALICE, CAROL]),
    ]
}

fn leaving(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    let leave = |by: usize| {
        wish("leave", by, move |client, now| client.leave(now, channel))
            .kept_until(move |world| !is_member(world, by, channel))
    };
    vec![
        says(CAROL, channel, "farewell", &[ALICE, BOB]),
        leave(CAROL),
        says(ALICE, channel, "two left", &[BOB]),
        leave(BOB),
        leave(ALICE),
    ]
}

fn keys(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    vec![
        later_epoch("update", BOB, channel, move |client, now| client.update(now, channel)),
        says(BOB, channel, "new leaf", &[ALICE, CAROL]),
        wish("rotate", ALICE, Client::rotate),
        says(ALICE, channel, "new key", &[BOB, CAROL]),
    ]
}

fn profile_and_roles(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    let bob = account_of(world, BOB).unwrap();
    let rename = move |client: &mut Client, now: Now| {
        let change = ProfileChange { name: Some("h".into()), ..ProfileChange::default() };
        client.set_metadata(now, channel, change)
    };
    vec![
        wish("set_metadata", ALICE, rename).kept_until(|world| {
            [ALICE, BOB, CAROL].iter().all(|d| named(world, *d, "h").is_some())
        }),
        later_epoch("set_role", ALICE, channel, move |client, now| {
            client.set_role(now, channel, bob, Role::Admin)
        }),
        removes(world, BOB, channel, CAROL),
        says(BOB, channel, "an admin", &[ALICE]),
    ]
}

/// All change the group at the same time; nobody is asked to wait for anybody.
fn contention(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    let bob = account_of(world, BOB).unwrap();
    let all: Ask = Box::new(move |world| {
        let change = ProfileChange { name: Some("h".into()), ..ProfileChange::default() };
        for _ in 0..4 {
            for device in [ALICE, BOB] {
                let now = world.now_of(device);
                world.client(device).update(now, channel)?;
            }
        }
        let now = world.now_of(BOB);
        world.client(BOB).set_metadata(now, channel, change)?;
        let now = world.now_of(CAROL);
        world.client(CAROL).remove(now, channel, bob).map(Some)
    });
    let removed: Holds = Box::new(move |world| !is_member(world, BOB, channel));
    vec![
        Wish { name: "all at once", by: CAROL, kept: true, ask: all, holds: Some(removed) },
        says(CAROL, channel, "at last", &[ALICE]),
    ]
}

fn direct(_: &World) -> Vec<Wish> {
    let open = |by: usize, name: &'static str| {
        wish("open_direct", by, move |client, now| client.open_direct(now, name))
            .kept_until(move |world| named(world, by, name).is_some())
    };
    let send = |by: usize, name: &'static str, to: usize, text: &'static str| {
        let ask: Ask = Box::new(move |world| {
            let channel = named(world, by, name).ok_or(Refused::UnknownChannel)?;
            let now = world.now_of(by);
            world.client(by).send(now, channel, text.as_bytes()).map(Some)
        });
        let holds: Holds = Box::new(move |world| heard(world, to, text));
        Wish { name: "send", by, kept: true, ask, holds: Some(holds) }
    };
    vec![
        open(ALICE, "bob"),
        send(ALICE, "bob", BOB, "only you"),
        open(BOB, "alice"),
        send(BOB, "alice", ALICE, "you too"),
    ]
}

fn reset(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    let all_back = move |world: &World| {
        [ALICE, BOB, CAROL].iter().all(|device| {
            let group = world.groups(*device).into_iter().find(|group| group.channel == channel);
            group.is_some_and(|group| group.generation >= 2 && group.member)
        })
    };
    vec![
        says(BOB, channel, "before", &[ALICE, CAROL]),
        wish("reset", ALICE, move |client, now| client.reset(now, channel, None))
            .kept_until(all_back),
        says(CAROL, channel, "after", &[ALICE, BOB]),
    ]
}

fn rejoin(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    vec![
        later_epoch("rejoin", BOB, channel, move |client, now| client.rejoin(now, channel)),
        says(BOB, channel, "back", &[ALICE, CAROL]),
        says(ALICE, channel, "good", &[BOB, CAROL]),
    ]
}

fn trust(world: &World) -> Vec<Wish> {
    let bob = account_of(world, BOB).unwrap();
    let known =
        move |world: &World| world.devices[ALICE].client.as_ref().and_then(|c| c.trust(bob));
    vec![
        wish("lookup", ALICE, |client, now| client.lookup(now, "bob")),
        wish("mark_verified", ALICE, move |client, now| client.mark_verified(now, bob))
            .kept_until(move |world| known(world) == Some(Trust::Verified)),
        wish("forget", ALICE, move |client, now| client.forget(now, bob))
            .until(move |world| known(world) != Some(Trust::Verified)),
    ]
}

fn acceptance(world: &World) -> Vec<Wish> {
    let carol = account_of(world, CAROL).unwrap();
    let known =
        move |world: &World| world.devices[ALICE].client.as_ref().and_then(|c| c.trust(carol));
    vec![
        wish("accept_change", ALICE, move |client, now| client.accept_change(now, carol))
            .kept_until(move |world| known(world) == Some(Trust::Seen)),
        wish("mark_verified", ALICE, move |client, now| client.mark_verified(now, carol))
            .kept_until(move |world| known(world) == Some(Trust::Verified)),
    ]
}

fn end_of_account(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    vec![
        wish("delete_account", CAROL, Client::delete_account)
            .until(|world| may(world, CAROL).is_err()),
        removes(world, ALICE, channel, CAROL),
        says(BOB, channel, "one less", &[ALICE]),
    ]
}
