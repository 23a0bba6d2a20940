//! What happens in the demo, step by step.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use qpc_protocol::client::event::{GroupSummary, Outcome};
use qpc_protocol::error::ErrorCode;
use qpc_protocol::id::{AccountId, ChannelId};
use qpc_protocol::io::Ticket;
use qpc_protocol::mls::suite::Suite;
use smol::future;

use super::device::{Device, Heard};
use super::server::ServerProcess;
use super::{Narrator, check, scan};
use crate::home::file_problem;
use crate::problem::{Local, Problem};

const GROUP: &str = "the quiet harbour at midnight";
const ALICE: usize = 0;
const BOB: usize = 1;
const CAROL: usize = 2;
const CAROLS_SECOND: usize = 3;
/// Messages of each of the three while the server is killed.
const BURST: usize = 12;

/// The world of the demo.
struct World {
    server: ServerProcess,
    /// Alice, Bob, Carol, Carol's second device, others.
    devices: Vec<Device>,
    group: ChannelId,
    /// Everything that the server must never have seen.
    secrets: Vec<String>,
    /// Messages sent, to be read by each member device except the sender's.
    sent: Vec<(usize, String)>,
}

/// Runs all of it in a temporary directory.
pub(super) async fn tell(narrator: &mut Narrator, members: usize) -> Result<(), Problem> {
    let dir = tempfile::Builder::new()
        .prefix("qpc-demo-")
        .tempdir()
        .map_err(|error| file_problem(&std::env::temp_dir(), &error))?;
    let mut world = meet(narrator, dir.path(), members).await?;
    know_each_other(narrator, &mut world).await?;
    gather(narrator, &mut world).await?;
    talk(narrator, &mut world).await?;
    commit_at_once(narrator, &mut world).await?;
    survive_the_kill(narrator, &mut world).await?;
    remove_bob(narrator, &mut world).await?;
    search(narrator, world, dir.path()).await
}

/// 1 and 2: the server, the accounts, the devices.
async fn meet(narrator: &mut Narrator, dir: &Path, members: usize) -> Result<World, Problem> {
    narrator.step("A server starts");
    let data = dir.join("server");
    let server = ServerProcess::start(&data, &dir.join("server.log")).await?;
    let fresh = std::fs::read(data.join("server.db")).unwrap_or_default();
    narrator.tell(format!("process {} listens at {}", server.process(), server.address()));
    narrator.prove(
        !fresh.is_empty() && !fresh.starts_with(b"SQLite format 3"),
        "its database is encrypted from the first byte on (SQLCipher)",
    )?;
    narrator.done()?;

    narrator.step("People register, by OPAQUE");
    let homes = dir.join("homes");
    let mut devices = Vec::new();
    let mut secrets = vec![GROUP.to_owned()];
    let mut names = vec!["alice".to_owned(), "bob".to_owned(), "carol".to_owned()];
    names.extend((4..=members).map(|number| format!("member{number}")));
    for name in &names {
        let password = format!("{name} walks by the sea at {}", 7 + name.len());
        let mut device = Device::new(&homes, (name, name, &password), server.address())?;
        device.register().await?;
        secrets.push(password.clone());
        devices.push(device);
        if name == "carol" {
            let label = "carol's second device";
            let mut second = Device::new(&homes, (label, name, &password), server.address())?;
            let wrong = second.login("carol walks by the lake").await;
            let refused = Problem::server(ErrorCode::LoginFailed, ErrorCode::LoginFailed.text());
            narrator
                .prove(wrong == Err(refused), "a wrong password is refused (E011 LoginFailed)")?;
            second.login(&password).await?;
            devices.push(second);
        }
    }
    let hybrid = devices.iter().filter(|device| device.key_exchange().1).count();
    narrator.prove(
        hybrid == devices.len(),
        format!("{} accounts on {} devices; no password ever left a device", names.len(), hybrid),
    )?;
    let exchange = devices.first().map(|device| device.key_exchange().0).unwrap_or_default();
    narrator.tell(format!("every connection: QUIC, TLS 1.3, post-quantum key exchange {exchange}"));
    narrator.done()?;
    let group = ChannelId([0; 16]);
    Ok(World { server, devices, group, secrets, sent: Vec::new() })
}

/// 3: safety numbers.
async fn know_each_other(narrator: &mut Narrator, world: &mut World) -> Result<(), Problem> {
    narrator.step("They compare safety numbers");
    for (one, other) in [(ALICE, BOB), (ALICE, CAROL), (BOB, CAROL)] {
        let (ours, _) = look_up(world, one, other).await?;
        let (theirs, _) = look_up(world, other, one).await?;
        let names = format!("{} and {}", world.devices[one].name, world.devices[other].name);
        narrator.prove(ours == theirs, format!("{names}: {ours}"))?;
    }
    narrator.done()
}

async fn look_up(
    world: &mut World,
    one: usize,
    other: usize,
) -> Result<(String, AccountId), Problem> {
    let name = world.devices[other].username.clone();
    match world.devices[one].command(move |client, now| client.lookup(now, &name)).await? {
        Outcome::Lookup { safety_number, account, .. } => Ok((safety_number, account)),
        _ => Err(Problem::new(Local::Internal, "a lookup was answered with something else")),
    }
}

/// 4: the group.
async fn gather(narrator: &mut Narrator, world: &mut World) -> Result<(), Problem> {
    narrator.step("Alice makes a group and invites everybody");
    let create = |client: &mut qpc_protocol::client::Client, now| {
        client.create_group(now, GROUP, Suite::Hybrid)
    };
    let Outcome::Group(group) = world.devices[ALICE].command(create).await? else {
        return Err(Problem::new(Local::Internal, "a group was answered with something else"));
    };
    world.group = group;
    let mut names: Vec<_> = world.devices.iter().map(|device| device.username.clone()).collect();
    names.dedup();
    for name in names.into_iter().skip(1) {
        world.devices[ALICE].command(move |client, now| client.invite(now, group, &name)).await?;
    }
    let named = |_: &Device, known: Option<&GroupSummary>| {
        known.is_some_and(|known| known.name.as_deref() == Some(GROUP))
    };
    for device in &mut world.devices {
        device.until(group, "learning the group's name", named).await?;
    }
    let state = agreed(world, &everyone(world)).await?;
    let all = world.devices.len();
    narrator.prove(
        state.suite == Suite::Hybrid && usize::try_from(state.members) == Ok(all),
        format!("{all} devices in one group, hybrid suite 0x004F (X-Wing: ML-KEM-768 with X25519)"),
    )?;
    narrator.prove(
        state.name.as_deref() == Some(GROUP),
        format!("all know its name, \"{GROUP}\"; the server does not"),
    )?;
    narrator.prove(true, authenticators(&state))?;
    narrator.done()
}

fn everyone(world: &World) -> Vec<usize> {
    (0..world.devices.len()).collect()
}

fn authenticators(state: &GroupSummary) -> String {
    let start: String = state.authenticator.iter().take(6).map(|b| format!("{b:02x}")).collect();
    format!("epoch {}, epoch authenticators equal on all ({start}…)", state.epoch)
}

/// Waits until these devices agree on epoch, authenticator and log; returns what they agree on.
async fn agreed(world: &mut World, which: &[usize]) -> Result<GroupSummary, Problem> {
    let group = world.group;
    let mut newest: Option<GroupSummary> = None;
    // Twice around: after the first all have reached the newest that any had seen.
    for place in which.iter().chain(which) {
        let least = newest.as_ref().map_or((0, 0), |known| (known.epoch, known.cursor));
        let device = &mut world.devices[*place];
        device
            .until(group, "catching up with the others", |_, known| {
                known.is_some_and(|known| (known.epoch, known.cursor) >= least)
            })
            .await?;
        newest = device.summary(group).await?;
    }
    let newest = newest.ok_or_else(|| Problem::new(Local::CheckFailed, "the group is gone"))?;
    for place in which {
        let device = &world.devices[*place];
        let known = device.summary(group).await?;
        let same = known.as_ref().is_some_and(|known| {
            known.authenticator == newest.authenticator
                && (known.epoch, known.cursor, known.chain)
                    == (newest.epoch, newest.cursor, newest.chain)
        });
        check(same && !newest.authenticator.is_empty(), || {
            format!("{} is in another state than the others: {known:?}, {newest:?}", device.name)
        })?;
    }
    Ok(newest)
}

/// 5: everybody says something.
async fn talk(narrator: &mut Narrator, world: &mut World) -> Result<(), Problem> {
    narrator.step("Everybody talks, everybody reads");
    for place in everyone(world) {
        let text = format!("{} says: the tide turns at {}", world.devices[place].name, 10 + place);
        say(world, place, text).await?;
    }
    let which = everyone(world);
    let read = all_read(world, &which).await?;
    narrator.prove(
        true,
        format!(
            "{} messages, each read once by every other device, {read} readings, in one order",
            world.sent.len()
        ),
    )?;
    narrator.prove(true, "a device of Carol reads what her other device wrote")?;
    narrator.done()
}

async fn say(world: &mut World, place: usize, text: String) -> Result<(), Problem> {
    world.devices[place].send(world.group, &text).await?;
    world.secrets.push(text.clone());
    world.sent.push((place, text));
    Ok(())
}

/// Waits until all of these devices have read everything that others sent, and nothing twice, all in the order of
/// the log. Returns how many readings there were.
async fn all_read(world: &mut World, which: &[usize]) -> Result<usize, Problem> {
    let group = world.group;
    let mut readings = 0;
    let mut order: BTreeSet<(u64, String)> = BTreeSet::new();
    for &place in which {
        let wanted = world.sent.iter().filter(|(sender, _)| *sender != place);
        let wanted: BTreeSet<String> = wanted.map(|(_, text)| text.clone()).collect();
        let device = &mut world.devices[place];
        device
            .until(group, "reading what was sent", |device, _| device.heard.len() >= wanted.len())
            .await?;
        let texts: BTreeSet<String> = device.heard.iter().map(|heard| heard.text.clone()).collect();
        check(texts == wanted && device.heard.len() == wanted.len(), || {
            format!("{} has read {:?}, not {wanted:?}", device.name, device.heard)
        })?;
        check(device.heard.is_sorted_by(|one, next| one.seq < next.seq), || {
            format!("{} has read out of order: {:?}", device.name, device.heard)
        })?;
        readings += device.heard.len();
        order.extend(device.heard.iter().map(|Heard { seq, text }| (*seq, text.clone())));
    }
    // One seq, one text: the same order for all.
    let seqs: BTreeSet<u64> = order.iter().map(|(seq, _)| *seq).collect();
    check(seqs.len() == order.len(), || format!("two devices read different orders: {order:?}"))?;
    Ok(readings)
}

/// 6: two commits for one epoch.
async fn commit_at_once(narrator: &mut Narrator, world: &mut World) -> Result<(), Problem> {
    narrator.step("Alice and Bob change the group at the same moment");
    let group = world.group;
    let before = agreed(world, &everyone(world)).await?;
    let mut rounds = 0;
    // Two commits meet almost every time; a round in which one was quicker shows nothing and is followed by another.
    while rounds < 10 && (rounds == 0 || world.server.conflicts() == 0) {
        rounds += 1;
        let [alice, bob, ..] = world.devices.as_mut_slice() else {
            return Err(Problem::new(Local::Internal, "nobody is there"));
        };
        let (one, other) = future::zip(
            alice.command(move |client, now| client.update(now, group)),
            bob.command(move |client, now| client.update(now, group)),
        )
        .await;
        let (Outcome::Epoch(one), Outcome::Epoch(other)) = (one?, other?) else {
            return Err(Problem::new(
                Local::Internal,
                "an update was answered with something else",
            ));
        };
        check(one != other, || format!("two commits made one epoch, {one}"))?;
    }
    let after = agreed(world, &everyone(world)).await?;
    narrator.prove(
        world.server.conflicts() > 0,
        "the server took one commit for the epoch and refused the other",
    )?;
    narrator.prove(
        after.epoch == before.epoch + 2 * rounds,
        "the loser's change came true in the next epoch by itself; nobody saw an error",
    )?;
    narrator.prove(true, authenticators(&after))?;
    narrator.done()
}

/// 7: kill -9.
async fn survive_the_kill(narrator: &mut Narrator, world: &mut World) -> Result<(), Problem> {
    narrator.step("The server is killed (kill -9) in mid-conversation");
    let process = world.server.process();
    let mut under_way: Vec<(usize, Ticket)> = Vec::new();
    for round in 0..BURST {
        for place in [ALICE, BOB, CAROL] {
            let text = format!("{} counts the waves: {round}", world.devices[place].name);
            let ticket = world.devices[place].begin_send(world.group, &text).await?;
            under_way.push((place, ticket));
            world.secrets.push(text.clone());
            world.sent.push((place, text));
        }
        if round == BURST / 2 {
            // Some are durable, some are on their way, some are not made yet.
            let (place, ticket) = under_way.swap_remove(0);
            world.devices[place].sent(ticket).await?;
            world.server.kill()?;
        }
    }
    smol::Timer::after(Duration::from_millis(200)).await;
    world.server.restart().await?;
    narrator.tell(format!(
        "process {process} was killed, process {} goes on with the same data on the same port",
        world.server.process()
    ));
    // A device that has nothing to send would notice only with its next sign of life, after up to 25 s.
    for device in &mut world.devices {
        device.command(|client, now| client.ping(now)).await?;
    }
    for (place, ticket) in under_way {
        world.devices[place].sent(ticket).await?;
    }
    narrator.prove(true, format!("all {} messages were accepted, before or after", 3 * BURST))?;
    let which = everyone(world);
    all_read(world, &which).await?;
    narrator.prove(true, "every device has read every one of them exactly once, in one order")?;
    let state = agreed(world, &which).await?;
    narrator
        .prove(true, format!("{}; log #{} with one chain", authenticators(&state), state.cursor))?;
    narrator.done()
}

/// 8: Bob goes.
async fn remove_bob(narrator: &mut Narrator, world: &mut World) -> Result<(), Problem> {
    narrator.step("Bob is removed and reads nothing after");
    let group = world.group;
    let (_, account) = look_up(world, ALICE, BOB).await?;
    let heard_before = world.devices[BOB].heard.len();
    let sent_before = world.sent.len();
    world.devices[ALICE].command(move |client, now| client.remove(now, group, account)).await?;
    let rest: Vec<_> = everyone(world).into_iter().filter(|place| *place != BOB).collect();
    world.devices[BOB].until(group, "learning that he is out", |device, _| device.evicted).await?;
    // This one stays unread on Carol's second device: the search looks for it there.
    world.devices[CAROLS_SECOND].acks = false;
    say(world, ALICE, "alice says: bob must never read this line".to_owned()).await?;
    say(world, CAROL, "carol says: nor may he read this one".to_owned()).await?;
    all_read(world, &rest).await?;
    let refused = world.devices[BOB].begin_send(group, "bob says: am I still here?").await;
    narrator.prove(
        refused.is_err_and(|problem| problem.is(Local::NotMember)),
        "Bob's device knows that it is out and sends no more",
    )?;
    smol::Timer::after(Duration::from_millis(100)).await;
    world.devices[BOB].until(group, "being quiet", |_, _| true).await?;
    let bob = &world.devices[BOB];
    let known = bob.summary(group).await?;
    let state = agreed(world, &rest).await?;
    let bob = &world.devices[BOB];
    narrator.prove(
        bob.heard.len() == heard_before
            && known.is_none_or(|known| known.authenticator != state.authenticator),
        format!(
            "{} messages later, Bob has read none of them and has not the keys",
            world.sent.len() - sent_before
        ),
    )?;
    narrator.prove(true, authenticators(&state))?;
    narrator.done()
}

/// 9: what the server has.
async fn search(narrator: &mut Narrator, world: World, dir: &Path) -> Result<(), Problem> {
    narrator.step("Everything that the server has is searched");
    let World { mut server, devices, secrets, sent, .. } = world;
    let data = dir.join("server");
    let control = dir.join("control");
    let last = sent.last().map(|(_, text)| text.clone()).unwrap_or_default();

    // The devices go first; then the server is killed, so that its write-ahead log is there too, as a thief of the
    // disk would find it.
    let running = scan::directory(&data, &secrets)?;
    let mut states = (None, None);
    for (place, device) in devices.into_iter().enumerate() {
        match place {
            BOB => states.0 = Some(device.into_state().await?),
            CAROLS_SECOND => states.1 = Some(device.into_state().await?),
            _ => device.close().await?,
        }
    }
    let (Some((bobs, _)), Some((carols, home))) = states else {
        return Err(Problem::new(Local::Internal, "nobody is there"));
    };
    server.kill()?;
    let stolen = scan::directory(&data, &secrets)?;
    let log = std::fs::read(dir.join("server.log")).unwrap_or_default();
    let in_log: Vec<_> = secrets.iter().filter(|secret| scan::contains(&log, secret)).collect();
    narrator.prove(
        running.found.is_empty() && stolen.found.is_empty() && stolen.bytes > 4096,
        format!(
            "{} texts, the group's name and the passwords among them, looked for in {} files of {} bytes: none \
             found, in any of six encodings",
            secrets.len(),
            stolen.files,
            stolen.bytes
        ),
    )?;
    narrator.prove(
        in_log.is_empty() && !log.is_empty(),
        format!("none of them is in the server's log at TRACE either ({} bytes)", log.len()),
    )?;

    let failed = |error| file_problem(&control, &error);
    std::fs::create_dir_all(&control).map_err(failed)?;
    let planted = [vec![0xA5; 70_000], last.clone().into_bytes(), vec![0x5A; 999]].concat();
    std::fs::write(control.join("planted"), planted).map_err(failed)?;
    let found = scan::directory(&control, &secrets)?.found.len();
    narrator.prove(found == 1, "the search finds such a text where one was planted")?;

    narrator.prove(
        scan::contains(&carols, &last),
        "it finds the last message in the decrypted state of Carol's second device, where it is unread",
    )?;
    narrator.prove(
        scan::directory(&home, &secrets)?.found.is_empty(),
        "but not in the files of that device: they are encrypted",
    )?;
    let later = sent.iter().rev().take(2);
    narrator.prove(
        later.into_iter().all(|(_, text)| !scan::contains(&bobs, text)) && !bobs.is_empty(),
        "and what was said after Bob left is nowhere in Bob's decrypted state",
    )?;
    narrator.done()
}
