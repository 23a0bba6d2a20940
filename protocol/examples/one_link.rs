//! Everything an embedder does, on the standard library alone: a server and two devices, each device on a Unix socket
//! pair (one ordered byte stream), its state in a plain file. Alice founds a group with Bob and writes; Bob reads, is
//! restarted from his file before he acknowledged, reads it again, and answers. `cargo run --example one_link`
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a runtime's work")]
#![expect(clippy::print_stdout, reason = "it shows what happens")]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::{path::Path, sync::LazyLock, thread, time};

use qpc_protocol::client::{Client, Config, DIRECTORY, event::Event, event::Outcome};
use qpc_protocol::env::{Entropy, Now, UnixMillis};
use qpc_protocol::error::Refused;
use qpc_protocol::io::*; // the whole surface
use qpc_protocol::server::{self, Server, ServerSecrets, memory::MemoryStore};
use qpc_protocol::store::batch::{Batch, Op};
use qpc_protocol::{crypto::portable, mls::suite::Suite};

type Accepted = Result<Ticket, Refused>;
type Done<T> = Result<T, Box<dyn std::error::Error>>;
/// Bytes under way in one direction, at most: what a socket of any system holds.
const CREDIT: usize = 4096;

fn now() -> Now {
    static START: LazyLock<time::Instant> = LazyLock::new(time::Instant::now);
    let wall = time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Now { mono: START.elapsed(), wall: UnixMillis(wall.as_millis() as u64) }
}

fn entropy() -> Done<Entropy> {
    let mut seed = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(Entropy::from_seed(seed))
}

/// A device. Its records are in memory, and in a file with one line for each batch (a real one encrypts). Its end of
/// the stream and the server's: the link's id, the socket, and whether the machine there asked for bytes.
struct Device {
    on: bool,
    client: Client,
    file: File,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    events: Vec<Event>,
    links: [LinkId; 2],
    sockets: [UnixStream; 2],
    asked: [bool; 2],
}

struct World {
    server: Server,
    store: MemoryStore,
    devices: Vec<Device>,
}

/// A device from its file, if there is one.
fn start(world: &mut World, folder: &Path, name: &str) -> Done<usize> {
    let path = folder.join(name);
    let file = OpenOptions::new().append(true).create(true).open(&path)?;
    let (text, mut records) = (fs::read_to_string(path)?, BTreeMap::new());
    let whole = text.rfind('\n').map_or(0, |end| end + 1); // a crash cut off what follows
    file.set_len(whole as u64)?;
    for line in text[..whole].lines() {
        let ops: Vec<Op> = serde_json::from_str(line)?;
        ops.into_iter().for_each(|op| op.apply(&mut records));
    }
    let server = Target("the other end of the pair".into());
    let config = Config { insecure_plain: true, ..Config::new(portable(), server) };
    let all = Page { prefix: DIRECTORY.to_vec(), after: None, most: usize::MAX };
    let client = Client::restore(config, all.read(&records), entropy()?, now())?;
    let links = [LinkId(0), LinkId(world.devices.len() as u64)]; // a server's runtime draws its own
    let sockets = <[UnixStream; 2]>::from(UnixStream::pair()?);
    sockets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
    let (on, events, asked) = (true, Vec::new(), [false; 2]);
    world.devices.push(Device { on, client, file, records, events, links, sockets, asked });
    Ok(world.devices.len() - 1)
}

/// The run loop: carries out all that the machines ask now; what has an answer is answered.
fn turn(world: &mut World) -> Done<()> {
    let World { server, store, devices } = world;
    let (now, mut bytes) = (now(), Vec::new());
    for device in devices.iter_mut().filter(|device| device.on) {
        let Device { client, file, records, events, links, sockets, asked, .. } = device;
        loop {
            bytes.clear();
            match client.poll(&mut bytes) {
                Output::Connect(conn, _) => {
                    // Nothing encrypts this stream; both sides have to allow that by name.
                    let binding = Binding { kind: BindingKind::InsecurePlain, value: [0; 32] };
                    let pair = Transport { binding, peer: Vec::new(), links: Links::One };
                    server.handle(now, Input::Connected(ConnId(links[1].0), pair.clone()))?;
                    client.handle(now, Input::Connected(conn, pair))?;
                }
                Output::Open(_, link, _) => {
                    links[0] = link;
                    client.handle(now, Input::Writable(link, CREDIT))?;
                    server.handle(now, Input::Accepted(ConnId(links[1].0), links[1]))?;
                    server.handle(now, Input::Writable(links[1], CREDIT))?;
                }
                Output::Send { .. } => sockets[0].write_all(&bytes)?,
                Output::Read(_) => asked[0] = true,
                Output::Persist(Batch { id, ops }) => {
                    file.write_all((serde_json::to_string(&ops)? + "\n").as_bytes())?;
                    file.sync_data()?; // told as `Err(StoreFault)`, a failure ends the machine only
                    ops.into_iter().for_each(|op| op.apply(records));
                    client.handle(now, Input::Persisted(id, Ok(())))?;
                }
                Output::Load(id, page) => {
                    client.handle(now, Input::Loaded(id, Ok(page.read(records))))?;
                }
                Output::Compute(id, job) => client.handle(now, Input::Computed(id, job.run()))?,
                Output::Event(Event::Failed(_, why)) => return Err(format!("{why:?}").into()),
                Output::Event(event) => events.push(event),
                Output::Idle { .. } => break, // a real one waits for an input, until `wake_at`
                other => return Err(format!("{other:?}").into()), // a close: a real one goes on
            }
        }
    }
    loop {
        bytes.clear();
        match server.poll(&mut bytes) {
            Output::Send { link, .. } => devices[link.0 as usize].sockets[1].write_all(&bytes)?,
            Output::Read(link) => devices[link.0 as usize].asked[1] = true,
            Output::Store(id, op) => {
                // A real one makes one durable transaction of all that are ready.
                let reply = store.apply(&[op]).pop().ok_or("no reply")?;
                server.handle(now, Input::Stored(id, Ok(reply)))?;
            }
            Output::Compute(id, job) => server.handle(now, Input::Computed(id, job.run()))?,
            Output::Audit(_) => {}
            Output::Idle { .. } => break,
            other => return Err(format!("{other:?}").into()),
        }
    }
    let mut bytes = [0; CREDIT];
    for Device { client, links, sockets, asked, .. } in devices.iter_mut().filter(|one| one.on) {
        for end in 0..2 {
            let room = if asked[end] { CREDIT } else { 0 };
            let Ok(length @ 1..) = sockets[end].read(&mut bytes[..room]) else { continue };
            let arrived = Input::Bytes(links[end], &bytes[..length]);
            let credit = Input::Writable(links[1 - end], length); // so much may follow
            let (here, there) = if end == 0 { (arrived, credit) } else { (credit, arrived) };
            client.handle(now, here)?;
            server.handle(now, there)?;
            asked[end] = false;
        }
        client.handle(now, Input::Tick)?;
    }
    thread::sleep(time::Duration::from_millis(1));
    Ok(server.handle(now, Input::Tick)?)
}

/// Goes on until a device tells something.
fn wait(world: &mut World, at: usize, is: impl Fn(&Event) -> bool) -> Done<Event> {
    loop {
        if let Some(found) = world.devices[at].events.iter().find(|event| is(event)) {
            return Ok(found.clone());
        }
        turn(world)?;
    }
}

/// A command, and all until it is done.
fn run(world: &mut World, at: usize, run: impl FnOnce(&mut Client) -> Accepted) -> Done<Event> {
    let ticket = run(&mut world.devices[at].client)?;
    wait(world, at, |event| matches!(event, Event::Done(done, _) if *done == ticket))
}

fn main() -> Done<()> {
    let folder = std::env::temp_dir().join(format!("qpc-one-link-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let config = server::Config { insecure_plain: true, ..server::Config::new(portable()) };
    let secrets = ServerSecrets::generate(&mut entropy()?); // a real one keeps them: `encode`
    let server = Server::new(config, secrets, entropy()?, now());
    let world = &mut World { server, store: MemoryStore::default(), devices: Vec::new() };
    let (alice, bob) = (start(world, &folder, "alice")?, start(world, &folder, "bob")?);
    for (device, name) in [(alice, "alice"), (bob, "bob")] {
        let password = format!("the password of {name}");
        run(world, device, |client| client.register(now(), name, password.into()))?;
        run(world, device, |client| client.refresh_key_packages(now()))?; // can be invited now
    }
    let found = run(world, alice, |client| client.create_group(now(), "garden", Suite::Hybrid))?;
    let Event::Done(_, Outcome::Group(garden)) = found else { return Err("no group".into()) };
    run(world, alice, |client| client.invite(now(), garden, "bob"))?;
    run(world, alice, |client| client.send(now(), garden, b"the beans are up"))?;
    let beans = |e: &Event| matches!(e, Event::Message(m) if *m.body == b"the beans are up");
    println!("Bob hears {:?}", wait(world, bob, beans)?);
    world.devices[bob].on = false; // without a word, as in a crash
    let bob = start(world, &folder, "bob")?;
    println!("Bob hears {:?} again", wait(world, bob, beans)?);
    world.devices[bob].client.ack(now(), garden, u64::MAX)?;
    run(world, bob, |client| client.send(now(), garden, b"so is the dill"))?;
    let dill = |e: &Event| matches!(e, Event::Message(m) if *m.body == b"so is the dill");
    println!("Alice hears {:?}", wait(world, alice, dill)?);
    Ok(fs::remove_dir_all(folder)?)
}
