//! What scripts look at, and wish.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

use std::cell::Cell;
use std::rc::Rc;

use qpc_protocol::client::Client;
use qpc_protocol::env::Now;
use qpc_protocol::error::Refused;
use qpc_protocol::id::{AccountId, ChannelId};
use qpc_protocol::io::Ticket;

use super::watched::planted;
use super::{Ask, Holds, Wish};
use crate::oracle::Asked;
use crate::world::World;

// ---- looking ------------------------------------------------------------------------------------

/// A group by its name, a direct channel by that of the other.
pub(super) fn named(world: &World, device: usize, name: &str) -> Option<ChannelId> {
    let is = |known: &String| *known == name || *known == planted(name);
    let groups = world.groups(device).into_iter();
    groups.filter(|group| group.name.as_ref().is_some_and(is)).map(|group| group.channel).next()
}

pub(super) fn account_of(world: &World, device: usize) -> Option<AccountId> {
    let (_, sender, _) = world.devices[device].client.as_ref()?.whoami()?;
    Some(sender.account)
}

pub(super) fn is_member(world: &World, device: usize, channel: ChannelId) -> bool {
    world.groups(device).iter().any(|group| group.channel == channel && group.member)
}

fn epoch(world: &World, device: usize, channel: ChannelId) -> Option<(u32, u64)> {
    let group = world.groups(device).into_iter().find(|group| group.channel == channel);
    group.map(|group| (group.generation, group.epoch))
}

/// Whether it was told a text that ends with these words.
pub(super) fn hears(world: &World, device: usize, words: &str) -> bool {
    let end = format!("-{words}");
    world.bodies(device).iter().any(|body| body.ends_with(&end))
}

pub(super) fn may(world: &World, device: usize) -> Result<(), Refused> {
    world.devices[device].client.as_ref().map_or(Err(Refused::Stopped), Client::may_connect)
}

// ---- wishing ------------------------------------------------------------------------------------

pub(super) fn wish(
    name: &'static str,
    by: usize,
    asked: Asked,
    ask: impl Fn(&mut Client, Now) -> Result<Ticket, Refused> + 'static,
) -> Wish {
    let ask: Ask = Box::new(move |world| world.give(by, asked.clone(), &ask).map(Some));
    Wish { name, by, ask, holds: None }
}

impl Wish {
    /// It has come true when that holds.
    pub(super) fn until(self, holds: impl Fn(&World) -> bool + 'static) -> Self {
        let holds: Holds = Box::new(holds);
        Self { holds: Some(holds), ..self }
    }
}

pub(super) fn says(
    by: usize,
    channel: ChannelId,
    words: &'static str,
    to: &'static [usize],
) -> Wish {
    let ask: Ask = Box::new(move |world| world.say(by, channel, words).map(Some));
    let wish = Wish { name: "send", by, ask, holds: None };
    wish.until(move |world| to.iter().all(|device| hears(world, *device, words)))
}

pub(super) fn reads(by: usize, channel: ChannelId) -> Wish {
    let ask: Ask = Box::new(move |world| {
        world.acknowledge(by, channel)?;
        let now = world.now_of(by);
        world.client(by).prefer(now, channel)?;
        Ok(None)
    });
    Wish { name: "ack", by, ask, holds: None }
}

pub(super) fn invites(by: usize, channel: ChannelId, name: &'static str, device: usize) -> Wish {
    let asked = Asked::Invite(channel, name.into());
    wish("invite", by, asked, move |client, now| client.invite(now, channel, name))
        .until(move |world| is_member(world, device, channel))
}

pub(super) fn removes(world: &World, by: usize, channel: ChannelId, device: usize) -> Wish {
    let account = account_of(world, device).unwrap();
    let gone = move |world: &World| {
        let known = world.groups(by).into_iter().find(|group| group.channel == channel);
        known.is_some_and(|group| group.members < 3) && may(world, device).is_err()
            || !is_member(world, device, channel)
    };
    let asked = Asked::Remove(channel, account);
    wish("remove", by, asked, move |client, now| client.remove(now, channel, account)).until(gone)
}

/// The epoch of a group at a device has to be a later one.
pub(super) fn later_epoch(
    name: &'static str,
    by: usize,
    channel: ChannelId,
    asked: Asked,
    ask: impl Fn(&mut Client, Now) -> Result<Ticket, Refused> + 'static,
) -> Wish {
    let before = Rc::new(Cell::new(None));
    let first = before.clone();
    let ask: Ask = Box::new(move |world| {
        first.set(first.get().or(epoch(world, by, channel)));
        world.give(by, asked.clone(), &ask).map(Some)
    });
    let holds: Holds = Box::new(move |world| epoch(world, by, channel) > before.get());
    Wish { name, by, ask, holds: Some(holds) }
}

/// Registers, or logs in if a crash left an account behind.
pub(super) fn registers(by: usize, name: &'static str) -> Wish {
    let tries = Cell::new(0);
    let ask: Ask = Box::new(move |world| {
        tries.set(tries.get() + 1);
        if tries.get() % 2 == 1 && world.client(by).whoami().is_none() {
            world.register(by, name).map(Some)
        } else {
            world.log_in(by, name).map(Some)
        }
    });
    Wish { name: "register", by, ask, holds: None }.until(move |world| may(world, by).is_ok())
}

pub(super) fn logs_in(by: usize, name: &'static str) -> Wish {
    let ask: Ask = Box::new(move |world| world.log_in(by, name).map(Some));
    Wish { name: "login", by, ask, holds: None }.until(move |world| may(world, by).is_ok())
}
