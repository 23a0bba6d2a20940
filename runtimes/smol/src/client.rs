//! Drives a client's machine: makes connections, keeps its records, and lends it to the application.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender, TrySendError};
use futures_lite::future;
use qpc_protocol::client::event::Event;
use qpc_protocol::client::{Client, Config, DIRECTORY};
use qpc_protocol::env::Now;
use qpc_protocol::error::{Fatal, RestoreError, StoreFault, StoreFaultKind};
use qpc_protocol::io::{BatchId, Input, LoadId, Output, Page};
use qpc_protocol::store::batch::{Batch, Records};
use smol::{Executor, LocalExecutor};
use thiserror::Error;

use crate::clock::{Clock, entropy};
use crate::dial::Net;
use crate::driver::{Alarm, LINGER, Lines, ROUND, Report, within};
use crate::quic::ConnectionFacts;
use crate::store::ClientStore;
use crate::tls::Trust;

/// Events that may wait for the application; then the machine is not asked for more.
const EVENTS: usize = 1024;
/// Commands that may wait for the machine; then who gives more waits.
const COMMANDS: usize = 256;
/// Records read at once when a client is opened.
const PAGE: usize = 1024;

/// How a client is opened.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// For the machine.
    pub config: Config,
    /// Whom to trust when the address has no pin.
    pub trust: Trust,
    /// A connection that is not up after this has failed.
    pub connect_time: Duration,
    /// A quiet connection is probed this often, so that a server that was started again is noticed; `None` leaves
    /// it to the machine's pings, which are rarer and kinder to a battery.
    pub probe_time: Option<Duration>,
    /// Of the machine and its driver.
    pub clock: Clock,
}

impl ClientOptions {
    /// Trusts the pin in the address only; the system's clock; 10 s to connect, a probe every 5 s.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            trust: Trust::PinOnly,
            connect_time: Duration::from_secs(10),
            probe_time: Some(Duration::from_secs(5)),
            clock: Clock::start(),
        }
    }
}

/// A client that could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Its records cannot be read.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// Its records make no machine.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The system gave no randomness or no thread.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// The driver has ended; [`ClientHandle::stop`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the client has stopped")]
pub struct Stopped;

type Command = Box<dyn FnOnce(&mut Client, Now) + Send>;

enum Order {
    Run(Command),
    Stop,
}

/// A running client.
pub struct ClientHandle {
    orders: Sender<Order>,
    facts: Arc<Mutex<Option<ConnectionFacts>>>,
    thread: JoinHandle<Result<(), Fatal>>,
}

impl fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientHandle")
    }
}

/// Restores a client from its store and drives it on a thread of its own. The receiver yields what the
/// machine tells; it ends when the driver does. Whoever does not read it stops the machine after 1,024
/// events; dropping it discards them.
///
/// # Errors
///
/// See [`OpenError`].
pub fn open(
    options: ClientOptions,
    mut store: Box<dyn ClientStore>,
) -> Result<(ClientHandle, Receiver<Event>), OpenError> {
    let clock = options.clock;
    let directory = directory(&mut *store)?;
    let machine = Client::restore(options.config, directory, entropy()?, clock.now())?;
    let (orders, inbox) = async_channel::bounded(COMMANDS);
    let (events, outbox) = async_channel::bounded(EVENTS);
    let facts = Arc::new(Mutex::new(None));
    let store = StoreThread::start(store)?;
    let (trust, shown) = (options.trust, Arc::clone(&facts));
    let (connect_time, probe_time) = (options.connect_time, options.probe_time);
    let thread = thread::Builder::new().name("qpc-client".to_owned()).spawn(move || {
        let executor = Arc::new(Executor::new());
        let local = Rc::new(LocalExecutor::new());
        let net = Rc::new(Net {
            executor: Arc::downgrade(&executor),
            local: Rc::downgrade(&local),
            trust,
            connect_time,
            probe_time,
            endpoints: RefCell::default(),
            facts: shown,
        });
        let (lines, reports, all_ended) = Lines::new(&local);
        let driver = Driver {
            machine,
            clock,
            store,
            lines,
            net,
            events,
            held: None,
            stop_by: None,
            buffer: Vec::new(),
        };
        let main = driver.run(reports, inbox, all_ended);
        async_io::block_on(executor.run(local.run(main)))
    })?;
    Ok((ClientHandle { orders, facts, thread }, outbox))
}

/// All records that `restore` needs.
fn directory(store: &mut dyn ClientStore) -> Result<Records, StoreFault> {
    let mut records = Records::new();
    loop {
        let after = records.last().map(|(key, _)| key.clone());
        let page = store.load(&Page { prefix: DIRECTORY.to_vec(), after, most: PAGE })?;
        let last = page.len() < PAGE;
        records.extend(page);
        if last {
            return Ok(records);
        }
    }
}

impl ClientHandle {
    /// Runs `command` on the machine and returns its result. What it set going is told by events.
    ///
    /// # Errors
    ///
    /// If the driver has ended.
    pub async fn run<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Client, Now) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (reply, result) = async_channel::bounded(1);
        let command: Command = Box::new(move |machine, now| {
            // Nobody waits any more if the caller gave up.
            drop(reply.try_send(command(machine, now)));
        });
        self.orders.send(Order::Run(command)).await.map_err(|_| Stopped)?;
        result.recv().await.map_err(|_| Stopped)
    }

    /// What the TLS handshake of the newest connection came to.
    pub fn connection(&self) -> Option<ConnectionFacts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the connection, lets the store finish, and ends the driver.
    ///
    /// # Errors
    ///
    /// What ended the driver before, if something did.
    pub async fn stop(self) -> Result<(), Fatal> {
        drop(self.orders.send(Order::Stop).await);
        let thread = self.thread;
        blocking::unblock(move || thread.join())
            .await
            .unwrap_or(Err(Fatal::Bug("the driver of the client panicked")))
    }
}

enum Work {
    Persist(Batch),
    Load(LoadId, Page),
}

enum Worked {
    Persisted(BatchId, Result<(), StoreFault>),
    Loaded(LoadId, Result<Records, StoreFault>),
}

/// The thread on which the store works, in the order of the orders.
struct StoreThread {
    work: Sender<Work>,
    done: Receiver<Worked>,
    thread: JoinHandle<()>,
    under_way: usize,
}

impl StoreThread {
    fn start(mut store: Box<dyn ClientStore>) -> io::Result<Self> {
        // The machine bounds how much is under way.
        let (work, inbox) = async_channel::unbounded();
        let (outbox, done) = async_channel::unbounded();
        let thread = thread::Builder::new().name("qpc-store".to_owned()).spawn(move || {
            while let Ok(work) = inbox.recv_blocking() {
                let done = match work {
                    Work::Persist(batch) => Worked::Persisted(batch.id, store.apply(&batch)),
                    Work::Load(id, page) => Worked::Loaded(id, store.load(&page)),
                };
                if outbox.send_blocking(done).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { work, done, thread, under_way: 0 })
    }

    fn give(&mut self, work: Work) {
        self.under_way += 1;
        // If the thread has ended, `Driver::wait` tells.
        drop(self.work.try_send(work));
    }
}

struct Driver {
    machine: Client,
    clock: Clock,
    store: StoreThread,
    lines: Lines,
    net: Rc<Net>,
    events: Sender<Event>,
    /// An event that the application has no room for yet. Until then the machine is not polled.
    held: Option<Event>,
    /// Told to stop; this is how long the store may take.
    stop_by: Option<Instant>,
    buffer: Vec<u8>,
}

enum Wake {
    Report(Report),
    Order(Order),
    Worked(Worked),
    StoreEnded,
    Room,
    Tick,
}

impl Driver {
    async fn run(
        mut self,
        reports: Receiver<Report>,
        orders: Receiver<Order>,
        all_ended: Receiver<()>,
    ) -> Result<(), Fatal> {
        let result = self.drive(&reports, &orders).await;
        // An order that came too late would keep whoever waits for its answer for as long as the channel lives.
        orders.close();
        while orders.try_recv().is_ok() {}
        // Dropping the lines closes what is still open.
        drop((self.lines, reports));
        within(LINGER + LINGER / 2, async { all_ended.recv().await.unwrap_or_default() }).await;
        drop(self.net.endpoints.take());
        let StoreThread { work, done, thread, .. } = self.store;
        drop(work);
        blocking::unblock(move || thread.join()).await.ok();
        drop(done);
        result
    }

    /// Until told to stop, or the machine is broken.
    async fn drive(
        &mut self,
        reports: &Receiver<Report>,
        orders: &Receiver<Order>,
    ) -> Result<(), Fatal> {
        let mut alarm = Alarm::new();
        loop {
            let deadline = self.poll();
            if let Some(latest) = self.stop_by
                && (self.store.under_way == 0 || Instant::now() >= latest)
            {
                return Ok(());
            }
            alarm.set(self.stop_by);
            alarm.set(deadline.and_then(|mono| self.clock.instant(mono)));
            let wake = self.wait(reports, orders, &mut alarm).await;
            let now = self.clock.now();
            match wake {
                Wake::Report(report) => self.lines.report(&mut self.machine, now, report)?,
                Wake::Order(order) => self.order(now, order),
                Wake::Worked(worked) => self.worked(now, worked)?,
                Wake::StoreEnded => {
                    let detail = "the store's thread has ended".to_owned();
                    return Err(StoreFault { kind: StoreFaultKind::Io, detail }.into());
                }
                Wake::Room => self.held = None,
                Wake::Tick => {
                    self.machine.handle(now, Input::Tick)?;
                    // However often it wants to be woken: the connections run on this executor too.
                    future::yield_now().await;
                }
            }
            for _ in 0..ROUND {
                let Ok(worked) = self.store.done.try_recv() else { break };
                self.worked(now, worked)?;
            }
            for _ in 0..ROUND {
                let Ok(report) = reports.try_recv() else { break };
                self.lines.report(&mut self.machine, now, report)?;
            }
            for _ in 0..ROUND {
                // Commands that came together share one batch.
                let Ok(order) = orders.try_recv() else { break };
                self.order(now, order);
            }
        }
    }

    fn order(&mut self, now: Now, order: Order) {
        match order {
            Order::Run(command) => command(&mut self.machine, now),
            Order::Stop => {
                self.stop_by = Instant::now().checked_add(LINGER * 5);
                self.machine.disconnect(now);
                // Nobody reads events now.
                self.events.close();
                self.held = None;
            }
        }
    }

    fn worked(&mut self, now: Now, worked: Worked) -> Result<(), Fatal> {
        self.store.under_way = self.store.under_way.saturating_sub(1);
        match worked {
            Worked::Persisted(id, result) => self.machine.handle(now, Input::Persisted(id, result)),
            Worked::Loaded(id, result) => self.machine.handle(now, Input::Loaded(id, result)),
        }
    }

    async fn wait(
        &self,
        reports: &Receiver<Report>,
        orders: &Receiver<Order>,
        alarm: &mut Alarm,
    ) -> Wake {
        let report = async {
            match reports.recv().await {
                Ok(report) => Wake::Report(report),
                Err(_) => future::pending().await,
            }
        };
        // A handle that was dropped means the same as one that was told to stop.
        let order = async {
            match orders.recv().await {
                Ok(order) => Wake::Order(order),
                Err(_) if self.stop_by.is_some() => future::pending().await,
                Err(_) => Wake::Order(Order::Stop),
            }
        };
        let worked = async {
            match self.store.done.recv().await {
                Ok(worked) => Wake::Worked(worked),
                Err(_) => Wake::StoreEnded,
            }
        };
        let room = async {
            match &self.held {
                // Whether it was sent or nobody wants it: there is room.
                Some(event) => drop(self.events.send(event.clone()).await),
                None => future::pending().await,
            }
            Wake::Room
        };
        let tick = async {
            alarm.ring().await;
            Wake::Tick
        };
        let outer = future::or(room, future::or(order, tick));
        future::or(report, future::or(worked, outer)).await
    }

    /// Carries out all outputs; returns the machine's deadline.
    fn poll(&mut self) -> Option<Duration> {
        if self.held.is_some() {
            return None;
        }
        let Self { machine, lines, buffer, store, events, net, held, .. } = self;
        lines.poll(machine, buffer, |lines, output| {
            match output {
                Output::Persist(batch) => store.give(Work::Persist(batch)),
                Output::Load(id, page) => store.give(Work::Load(id, page)),
                Output::Event(event) => {
                    // An event that nobody wants any more is dropped.
                    if let Err(TrySendError::Full(event)) = events.try_send(event) {
                        *held = Some(event);
                        return ControlFlow::Break(());
                    }
                }
                Output::Connect(conn, target) => {
                    let net = Rc::clone(net);
                    lines.connect(conn, async move { net.dial(target).await });
                }
                other => tracing::error!(?other, "a client's machine does not ask this"),
            }
            ControlFlow::Continue(())
        })
    }
}
