//! The scripts: together they give every command that a client has.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

use qpc_protocol::client::event::{Event, Outcome, Trust};
use qpc_protocol::client::{Client, ProfileChange, Role};
use qpc_protocol::env::Now;
use qpc_protocol::error::Refused;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Reply};

use super::watched::{Watched, planted};
use super::wishes::{
    account_of, hears, invites, is_member, later_epoch, logs_in, may, named, reads, registers,
    removes, says, wish,
};
use super::{Ask, Holds, Script, Wish};
use crate::oracle::Asked;
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

fn people() -> Watched {
    let mut world = Watched::new(Rules::new(1));
    for name in ["alice", "bob", "carol"] {
        let device = world.device();
        let ticket = world.register(device, name).unwrap();
        world.outcome(device, ticket);
    }
    world.device();
    world.until(|world| {
        world.devices[..FRESH].iter().all(|d| d.client.as_ref().is_some_and(Client::is_idle))
    });
    world
}

fn group(suite: Suite) -> Watched {
    let mut world = people();
    let name = planted("g");
    let made = world.done(ALICE, Asked::Create(name.clone(), suite), |client, now| {
        client.create_group(now, &name, suite)
    });
    let Outcome::Group(channel) = made else { unreachable!("{made:?}") };
    for name in ["bob", "carol"] {
        let asked = Asked::Invite(channel, name.into());
        world.done(ALICE, asked, |client, now| client.invite(now, channel, name));
    }
    world
}

fn together() -> Watched {
    group(Suite::Classical)
}

fn together_hybrid() -> Watched {
    group(Suite::Hybrid)
}

fn admins() -> Watched {
    let mut world = together();
    let channel = named(&world, ALICE, "g").unwrap();
    for device in [BOB, CAROL] {
        let account = account_of(&world, device).unwrap();
        world.done(ALICE, Asked::Role(channel, account, true), |client, now| {
            client.set_role(now, channel, account, Role::Admin)
        });
    }
    world
}

/// A name that alice knows leads to somebody else by now.
fn mistaken() -> Watched {
    let mut world = people();
    let carol = account_of(&world, CAROL).unwrap();
    let bob = |client: &mut Client, now| client.lookup(now, "bob");
    let asked = Asked::Lookup("bob".into());
    world.done(ALICE, asked.clone(), bob);
    world.lied(ALICE);
    world.liar = Some(Box::new(move |_, _, mut frame| {
        if let Body::Reply(Reply::Account { account, .. }) = &mut frame.body {
            *account = carol;
        }
        vec![frame]
    }));
    world.cut(ALICE);
    world.done(ALICE, asked, bob);
    world.liar = None;
    world.cut(ALICE);
    world
}

// ---- the scripts --------------------------------------------------------------------------------

fn account(_: &World) -> Vec<Wish> {
    vec![
        wish("health", FRESH, Asked::Health, Client::health),
        registers(FRESH, "dave"),
        wish("ping", FRESH, Asked::Ping, Client::ping),
        wish("refresh_key_packages", FRESH, Asked::Packages, Client::refresh_key_packages),
        wish("key_packages", FRESH, Asked::Packages, Client::key_packages),
        wish("logout", FRESH, Asked::Logout, Client::logout)
            .until(|world| may(world, FRESH) == Err(Refused::LoggedOut)),
        logs_in(FRESH, "dave"),
        wish("lookup", ALICE, Asked::Lookup("dave".into()), |client, now| {
            client.lookup(now, "dave")
        }),
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
        let compare = |client: &mut Client, now| client.compare_checkpoint(now, channel, &theirs);
        world.give(BOB, Asked::Compare(channel), compare).map(Some)
    });
    vec![
        wish("devices", ALICE, Asked::Devices, Client::devices),
        wish("members", BOB, Asked::Members(channel), move |client, now| {
            client.members(now, channel)
        }),
        Wish { name: "disconnect", by: BOB, ask: away, holds: None },
        Wish { name: "connect", by: BOB, ask: back, holds: None },
        says(ALICE, channel, "to be proved", &[BOB, CAROL]),
        wish("proofs", ALICE, Asked::Proofs(channel), move |client, now| {
            client.proofs(now, channel, 0, 10)
        }),
        Wish { name: "compare", by: BOB, ask: compare, holds: None },
    ]
}

fn second_device(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    let revoke: Ask = Box::new(|world| {
        let (_, sender, _) = world.client(FRESH).whoami().ok_or(Refused::NoAccount)?;
        let revoke = |client: &mut Client, now| client.revoke(now, sender.device);
        world.give(BOB, Asked::Revoke(sender.device), revoke).map(Some)
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
        Wish { name: "revoke", by: BOB, ask: revoke, holds: Some(revoked) },
        says(CAROL, channel, "without it", &[ALICE, BOB]),
    ]
}

fn ended_by(world: &World, device: usize, is: impl Fn(&Event) -> bool) -> bool {
    world.devices[device].log.iter().any(is)
}

fn founding(_: &World) -> Vec<Wish> {
    let asked = Asked::Create(planted("new"), Suite::Classical);
    let create = wish("create_group", ALICE, asked, |client, now| {
        client.create_group(now, &planted("new"), Suite::Classical)
    });
    let invite: Ask = Box::new(|world| {
        let channel = named(world, ALICE, "new").ok_or(Refused::UnknownChannel)?;
        let invite = |client: &mut Client, now| client.invite(now, channel, "bob");
        world.give(ALICE, Asked::Invite(channel, "bob".into()), invite).map(Some)
    });
    let send: Ask = Box::new(|world| {
        let channel = named(world, BOB, "new").ok_or(Refused::UnknownChannel)?;
        world.say(BOB, channel, "I am in").map(Some)
    });
    let invited: Holds = Box::new(|world| {
        named(world, BOB, "new").is_some_and(|channel| is_member(world, BOB, channel))
    });
    let sent: Holds = Box::new(|world| hears(world, ALICE, "I am in"));
    vec![
        create.until(|world| named(world, ALICE, "new").is_some()),
        Wish { name: "invite", by: ALICE, ask: invite, holds: Some(invited) },
        Wish { name: "send", by: BOB, ask: send, holds: Some(sent) },
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
        wish("leave", by, Asked::Leave(channel), move |client, now| client.leave(now, channel))
            .until(move |world| !is_member(world, by, channel))
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
        later_epoch("update", BOB, channel, Asked::Update(channel), move |client, now| {
            client.update(now, channel)
        }),
        says(BOB, channel, "new leaf", &[ALICE, CAROL]),
        wish("rotate", ALICE, Asked::Rotate, Client::rotate),
        says(ALICE, channel, "new key", &[BOB, CAROL]),
    ]
}

/// Another name for a group.
fn h() -> ProfileChange {
    ProfileChange { name: Some(planted("h")), ..ProfileChange::default() }
}

fn profile_and_roles(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    let bob = account_of(world, BOB).unwrap();
    let rename = move |client: &mut Client, now: Now| client.set_metadata(now, channel, h());
    vec![
        wish("set_metadata", ALICE, Asked::Describe(channel, planted("h")), rename)
            .until(|world| [ALICE, BOB, CAROL].iter().all(|d| named(world, *d, "h").is_some())),
        later_epoch(
            "set_role",
            ALICE,
            channel,
            Asked::Role(channel, bob, true),
            move |client, now| client.set_role(now, channel, bob, Role::Admin),
        ),
        removes(world, BOB, channel, CAROL),
        says(BOB, channel, "an admin", &[ALICE]),
    ]
}

/// All change the group at the same time; nobody is asked to wait for anybody.
fn contention(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    let bob = account_of(world, BOB).unwrap();
    let all: Ask = Box::new(move |world| {
        for _ in 0..4 {
            for device in [ALICE, BOB] {
                let update = |client: &mut Client, now| client.update(now, channel);
                world.give(device, Asked::Update(channel), update)?;
            }
        }
        let rename = |client: &mut Client, now| client.set_metadata(now, channel, h());
        world.give(BOB, Asked::Describe(channel, planted("h")), rename)?;
        let remove = |client: &mut Client, now| client.remove(now, channel, bob);
        world.give(CAROL, Asked::Remove(channel, bob), remove).map(Some)
    });
    let removed: Holds = Box::new(move |world| !is_member(world, BOB, channel));
    vec![
        Wish { name: "all at once", by: CAROL, ask: all, holds: Some(removed) },
        says(CAROL, channel, "at last", &[ALICE]),
    ]
}

fn direct(_: &World) -> Vec<Wish> {
    let open = |by: usize, name: &'static str| {
        wish("open_direct", by, Asked::Direct(name.into()), move |client, now| {
            client.open_direct(now, name)
        })
        .until(move |world| named(world, by, name).is_some())
    };
    let send = |by: usize, name: &'static str, to: usize, text: &'static str| {
        let ask: Ask = Box::new(move |world| {
            let channel = named(world, by, name).ok_or(Refused::UnknownChannel)?;
            world.say(by, channel, text).map(Some)
        });
        let holds: Holds = Box::new(move |world| hears(world, to, text));
        Wish { name: "send", by, ask, holds: Some(holds) }
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
        wish("reset", ALICE, Asked::Reset(channel, None), move |client, now| {
            client.reset(now, channel, None)
        })
        .until(all_back),
        says(CAROL, channel, "after", &[ALICE, BOB]),
    ]
}

fn rejoin(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    vec![
        later_epoch("rejoin", BOB, channel, Asked::Rejoin(channel), move |client, now| {
            client.rejoin(now, channel)
        }),
        says(BOB, channel, "back", &[ALICE, CAROL]),
        says(ALICE, channel, "good", &[BOB, CAROL]),
    ]
}

fn trust(world: &World) -> Vec<Wish> {
    let bob = account_of(world, BOB).unwrap();
    let known =
        move |world: &World| world.devices[ALICE].client.as_ref().and_then(|c| c.trust(bob));
    vec![
        wish("lookup", ALICE, Asked::Lookup("bob".into()), |client, now| client.lookup(now, "bob")),
        wish("mark_verified", ALICE, Asked::Verify(bob), move |client, now| {
            client.mark_verified(now, bob)
        })
        .until(move |world| known(world) == Some(Trust::Verified)),
        wish("forget", ALICE, Asked::Forget(bob), move |client, now| client.forget(now, bob))
            .until(move |world| known(world) != Some(Trust::Verified)),
    ]
}

fn acceptance(world: &World) -> Vec<Wish> {
    let carol = account_of(world, CAROL).unwrap();
    let known =
        move |world: &World| world.devices[ALICE].client.as_ref().and_then(|c| c.trust(carol));
    vec![
        wish("accept_change", ALICE, Asked::Accept(carol), move |client, now| {
            client.accept_change(now, carol)
        })
        .until(move |world| known(world) == Some(Trust::Seen)),
        wish("mark_verified", ALICE, Asked::Verify(carol), move |client, now| {
            client.mark_verified(now, carol)
        })
        .until(move |world| known(world) == Some(Trust::Verified)),
    ]
}

fn end_of_account(world: &World) -> Vec<Wish> {
    let channel = named(world, ALICE, "g").unwrap();
    vec![
        wish("delete_account", CAROL, Asked::Delete, Client::delete_account)
            .until(|world| may(world, CAROL).is_err()),
        removes(world, ALICE, channel, CAROL),
        says(BOB, channel, "one less", &[ALICE]),
    ]
}
