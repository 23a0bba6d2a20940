//! What a person can ask of a device: every command of a client, on what there is.

use std::time::Duration;

use qpc_protocol::client::{Client, ProfileChange, Role};
use qpc_protocol::env::Now;
use qpc_protocol::error::Refused;
use qpc_protocol::id::{AccountId, ChannelId, Digest, Sender};
use qpc_protocol::mls::suite::Suite;

use super::past::{NAMES, password};
use super::script::Script;

/// How many commands [`act`] knows.
pub(super) const ACTS: usize = 34;

/// One command, as the script says, where it names somebody: one of `senders`. That it is refused is as good an outcome
/// as any.
pub(super) fn act(senders: &[Sender], client: &mut Client, now: Now, script: &mut Script) {
    let what = script.pick(ACTS);
    let _ = match what {
        0..12 => in_group(senders, client, now, what, script),
        _ => of_device(senders, client, now, what, script),
    };
}

fn in_group(
    senders: &[Sender],
    client: &mut Client,
    now: Now,
    what: usize,
    script: &mut Script,
) -> Result<(), Refused> {
    let channel = channel(client, script);
    match what {
        0 | 1 => {
            let text = script.byte();
            client.send(now, channel, &[b't', text]).map(drop)
        }
        2 => client.update(now, channel).map(drop),
        3 => client.invite(now, channel, name(script)).map(drop),
        4 => client.remove(now, channel, account(senders, script)).map(drop),
        5 => client.leave(now, channel).map(drop),
        6 => client.ack(now, channel, script.number()),
        7 => client.proofs(now, channel, script.number(), 3).map(drop),
        8 => client.members(now, channel).map(drop),
        9 => {
            let change = ProfileChange {
                name: Some("other".into()),
                description: None,
                avatar: Some(script.of(&[None, Some(Digest([4; 32]))]).flatten()),
            };
            client.set_metadata(now, channel, change).map(drop)
        }
        10 => {
            let role = script.of(&[Role::Admin, Role::Member]).unwrap_or(Role::Member);
            client.set_role(now, channel, account(senders, script), role).map(drop)
        }
        _ => client.prefer(now, channel),
    }
}

fn of_device(
    senders: &[Sender],
    client: &mut Client,
    now: Now,
    what: usize,
    script: &mut Script,
) -> Result<(), Refused> {
    match what {
        12 => client.rejoin(now, channel(client, script)).map(drop),
        13 => {
            let suite = script.of(&[None, Some(Suite::Classical), Some(Suite::Hybrid)]).flatten();
            client.reset(now, channel(client, script), suite).map(drop)
        }
        14 => client.open_direct(now, name(script)).map(drop),
        15 => {
            let suite = script.of(&[Suite::Classical, Suite::Hybrid]).unwrap_or_default();
            client.create_group(now, "new", suite).map(drop)
        }
        16 => client.register(now, "zoe", password("zoe")).map(drop),
        17 => {
            let name = name(script);
            client.login(now, name, password(name)).map(drop)
        }
        18 => client.login(now, name(script), password("wrong")).map(drop),
        19 => client.logout(now).map(drop),
        20 => client.ping(now).map(drop),
        21 => client.health(now).map(drop),
        22 => client.lookup(now, name(script)).map(drop),
        23 => client.devices(now).map(drop),
        24 => {
            let device = script.of(senders).map(|sender| sender.device);
            device.map_or(Ok(()), |device| client.revoke(now, device).map(drop))
        }
        25 => client.key_packages(now).map(drop),
        26 => client.refresh_key_packages(now).map(drop),
        27 => client.delete_account(now).map(drop),
        28 => client.rotate(now).map(drop),
        29 => client.mark_verified(now, account(senders, script)).map(drop),
        30 => client.accept_change(now, account(senders, script)).map(drop),
        31 => client.forget(now, account(senders, script)).map(drop),
        32 => {
            let channel = channel(client, script);
            let own = client.checkpoint(channel)?.encode();
            client.compare_checkpoint(now, channel, &script.edited(&own)).map(drop)
        }
        _ => {
            if script.byte().is_multiple_of(2) {
                client.disconnect(now);
            } else {
                client.connect(now);
            }
            Ok(())
        }
    }
}

fn channel(client: &Client, script: &mut Script) -> ChannelId {
    let known: Vec<_> = client.groups().into_iter().map(|group| group.channel).collect();
    script.of(&known).unwrap_or(ChannelId([1; 16]))
}

fn account(senders: &[Sender], script: &mut Script) -> AccountId {
    script.of(senders).map_or(AccountId([0; 32]), |sender| sender.account)
}

fn name(script: &mut Script) -> &'static str {
    script.of(&NAMES).unwrap_or_default()
}

/// Spans after which something is due: a moment, a deadline, a retry, the ends of tokens, packages and entries.
pub(super) fn span(script: &mut Script) -> Duration {
    const SPANS: [u64; 8] =
        [1, 1_000, 20_000, 70_000, 3_700_000, 90_000_000, 700_000_000, 2_700_000_000];
    Duration::from_millis(SPANS[script.pick(SPANS.len())])
}
