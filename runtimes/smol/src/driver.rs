//! What both drivers have in common: connections and links of a machine, its jobs, its timer.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::ops::ControlFlow;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use async_io::Timer;
use bytes::Bytes;
use futures_lite::future;
use qpc_protocol::client::Client;
use qpc_protocol::env::Now;
use qpc_protocol::error::{CloseCode, Fatal};
use qpc_protocol::io::{ConnId, Gone, Input, JobId, LinkId, LinkRole, Output, Transport};
use qpc_protocol::job::{Job, JobOutput};
use qpc_protocol::server::Server;
use smol::LocalExecutor;

use crate::link::{Carrier, Pipe, pump};

/// How long a connection that ends in peace may take to hand over what was sent on it.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// Inputs handled before outputs are looked at, so that neither starves the other.
pub(crate) const ROUND: usize = 512;
/// A send buffer above this is given back after a burst.
const BUFFER_KEPT: usize = 256 * 1024;

/// Either machine.
pub(crate) trait Machine {
    fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), Fatal>;
    fn poll(&mut self, buffer: &mut Vec<u8>) -> Output;
}

impl Machine for Client {
    fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), Fatal> {
        self.handle(now, input)
    }

    fn poll(&mut self, buffer: &mut Vec<u8>) -> Output {
        self.poll(buffer)
    }
}

impl Machine for Server {
    fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), Fatal> {
        self.handle(now, input)
    }

    fn poll(&mut self, buffer: &mut Vec<u8>) -> Output {
        self.poll(buffer)
    }
}

/// What the tasks on the driver's thread tell the driver.
pub(crate) enum Report {
    Connected(ConnId, Transport),
    Disconnected(ConnId, Gone),
    /// A connection that the other side made: to be registered before it is told.
    Arrived(ConnId, Transport, Line),
    Accepted(ConnId, Rc<Pipe>),
    Bytes(LinkId, Bytes),
    Closed(LinkId, Gone),
    Writable(LinkId, usize),
    Computed(JobId, JobOutput),
}

enum Order {
    Open(Rc<Pipe>, LinkRole),
    Close(CloseCode),
}

/// The driver's end of a connection: dropping it closes the connection.
pub(crate) struct Line {
    orders: Sender<Order>,
    up: bool,
    links: BTreeSet<LinkId>,
}

/// All connections and links of a machine.
pub(crate) struct Lines {
    spawner: Spawner,
    lines: BTreeMap<ConnId, Line>,
    pipes: BTreeMap<LinkId, Rc<Pipe>>,
    jobs: Jobs,
}

/// What a task needs to bring connections in.
#[derive(Clone)]
pub(crate) struct Spawner {
    /// Its tasks hold this, so this must not hold it.
    executor: Weak<LocalExecutor<'static>>,
    pub(crate) reports: Sender<Report>,
    next: Rc<Cell<u64>>,
    /// Held by the task of every connection: when all are dropped, all have ended.
    _alive: Sender<()>,
}

impl Spawner {
    /// Runs `task` until it ends, or the driver does.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if let Some(executor) = self.executor.upgrade() {
            executor.spawn(task).detach();
        }
    }

    /// An id that was not used before, for a connection or a link of a server.
    fn id(&self) -> u64 {
        let id = self.next.get() + 1;
        self.next.set(id);
        id
    }

    /// Takes in a connection that the other side made.
    pub(crate) fn arrived<C: Carrier>(&self, carrier: C, transport: Transport) {
        let conn = ConnId(self.id());
        let (orders, inbox) = async_channel::unbounded();
        let line = Line { orders, up: true, links: BTreeSet::new() };
        drop(self.reports.try_send(Report::Arrived(conn, transport, line)));
        let spawner = self.clone();
        self.spawn(async move { spawner.tend(conn, carrier, inbox, true).await });
    }

    /// Looks after one connection until it ends.
    async fn tend<C: Carrier>(
        &self,
        conn: ConnId,
        carrier: C,
        inbox: Receiver<Order>,
        accepts: bool,
    ) {
        enum Next<L> {
            Order(Option<Order>),
            Gone(Gone),
            Link(L),
        }
        let carrier = Rc::new(carrier);
        let (busy, idle) = async_channel::bounded::<()>(1);
        loop {
            let ended = async { Next::Gone(carrier.gone().await) };
            let ordered = async { Next::Order(inbox.recv().await.ok()) };
            let opened = async {
                if accepts { Next::Link(carrier.accept().await) } else { future::pending().await }
            };
            match future::or(ended, future::or(ordered, opened)).await {
                Next::Gone(gone) => {
                    drop(self.reports.try_send(Report::Disconnected(conn, gone)));
                    return;
                }
                Next::Link(halves) => {
                    let pipe = Pipe::new(conn, LinkId(self.id()));
                    drop(self.reports.try_send(Report::Accepted(conn, Rc::clone(&pipe))));
                    let (reports, busy) = (self.reports.clone(), busy.clone());
                    self.spawn(async move {
                        pump(pipe, halves, reports).await;
                        drop(busy);
                    });
                }
                Next::Order(Some(Order::Open(pipe, role))) => {
                    let (carrier, reports, busy) =
                        (Rc::clone(&carrier), self.reports.clone(), busy.clone());
                    self.spawn(async move {
                        // If the connection is lost, `tend` tells.
                        if let Ok(halves) = carrier.open(role).await {
                            pump(pipe, halves, reports).await;
                        }
                        drop(busy);
                    });
                }
                Next::Order(Some(Order::Close(code))) => {
                    drop(busy);
                    let all_sent = async { idle.recv().await.unwrap_or_default() };
                    within(LINGER, future::or(all_sent, async { drop(carrier.gone().await) }))
                        .await;
                    within(LINGER, carrier.close(code)).await;
                    return;
                }
                Next::Order(None) => {
                    within(LINGER, carrier.close(CloseCode::DONE)).await;
                    return;
                }
            }
        }
    }
}

/// The one timer of a driver.
pub(crate) struct Alarm {
    timer: Timer,
    at: Option<Instant>,
}

impl Alarm {
    pub(crate) fn new() -> Self {
        Self { timer: Timer::never(), at: None }
    }

    /// Rings at `at` at the latest; a deadline that moved away may still ring, which is harmless and
    /// saves arming the timer anew with every call.
    pub(crate) fn set(&mut self, at: Option<Instant>) {
        if let Some(at) = at
            && self.at.is_none_or(|set| at < set)
        {
            self.timer.set_at(at);
            self.at = Some(at);
        }
    }

    pub(crate) async fn ring(&mut self) {
        (&mut self.timer).await;
        self.at = None;
        self.timer.clear();
    }
}

/// Waits for `future`, but not longer than `time`; whether it came to its end.
pub(crate) async fn within(time: Duration, future: impl Future<Output = ()>) -> bool {
    let done = async {
        future.await;
        true
    };
    let late = async {
        Timer::after(time).await;
        false
    };
    future::or(done, late).await
}

impl Lines {
    /// Nothing yet. The second value yields reports; the third ends when all connections have ended and
    /// all [`Spawner`]s are dropped.
    pub(crate) fn new(
        executor: &Rc<LocalExecutor<'static>>,
    ) -> (Self, Receiver<Report>, Receiver<()>) {
        let (reports, inbox) = async_channel::unbounded();
        let (alive, ended) = async_channel::bounded(1);
        let spawner = Spawner {
            executor: Rc::downgrade(executor),
            reports,
            next: Rc::default(),
            _alive: alive,
        };
        let jobs = Jobs::new();
        (Self { spawner, lines: BTreeMap::new(), pipes: BTreeMap::new(), jobs }, inbox, ended)
    }

    pub(crate) fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// Makes a connection by `dial`.
    pub(crate) fn connect<C, F>(&mut self, conn: ConnId, dial: F)
    where
        C: Carrier,
        F: Future<Output = Result<(C, Transport), Gone>> + 'static,
    {
        let (orders, inbox) = async_channel::unbounded();
        self.lines.insert(conn, Line { orders, up: false, links: BTreeSet::new() });
        let spawner = self.spawner.clone();
        let task = async move {
            // Orders before the connection is up can only be to give it up.
            let given_up = async {
                drop(inbox.recv().await);
                None
            };
            match future::or(given_up, async { Some(dial.await) }).await {
                None => {}
                Some(Err(gone)) => drop(spawner.reports.try_send(Report::Disconnected(conn, gone))),
                Some(Ok((carrier, transport))) => {
                    drop(spawner.reports.try_send(Report::Connected(conn, transport)));
                    spawner.tend(conn, carrier, inbox, false).await;
                }
            }
        };
        self.spawner.spawn(task);
    }

    /// Hands a report to the machine.
    pub(crate) fn report(
        &mut self,
        machine: &mut impl Machine,
        now: Now,
        report: Report,
    ) -> Result<(), Fatal> {
        match report {
            Report::Connected(conn, transport) => match self.lines.get_mut(&conn) {
                Some(line) => {
                    line.up = true;
                    machine.handle(now, Input::Connected(conn, transport))
                }
                None => Ok(()),
            },
            Report::Arrived(conn, transport, line) => {
                self.lines.insert(conn, line);
                machine.handle(now, Input::Connected(conn, transport))
            }
            Report::Disconnected(conn, gone) => match self.forget(conn) {
                Some((_, pipes)) => {
                    for pipe in pipes {
                        pipe.close(CloseCode::DONE);
                    }
                    machine.handle(now, Input::Disconnected(conn, gone))
                }
                None => Ok(()),
            },
            Report::Accepted(conn, pipe) => match self.lines.get_mut(&conn) {
                Some(line) => {
                    let link = pipe.link;
                    line.links.insert(link);
                    self.pipes.insert(link, pipe);
                    machine.handle(now, Input::Accepted(conn, link))
                }
                None => {
                    pipe.close(CloseCode::DONE);
                    Ok(())
                }
            },
            Report::Bytes(link, bytes) if self.pipes.contains_key(&link) => {
                machine.handle(now, Input::Bytes(link, &bytes))
            }
            Report::Writable(link, credit) if self.pipes.contains_key(&link) => {
                machine.handle(now, Input::Writable(link, credit))
            }
            Report::Closed(link, gone) if self.pipes.contains_key(&link) => {
                if gone != Gone::Finished {
                    self.drop_link(link);
                } else {
                    self.drop_if_over(link);
                }
                machine.handle(now, Input::Closed(link, gone))
            }
            Report::Bytes(..) | Report::Writable(..) | Report::Closed(..) => Ok(()),
            Report::Computed(job, output) => {
                self.jobs.done(&self.spawner);
                machine.handle(now, Input::Computed(job, output))
            }
        }
    }

    /// Carries out all that the machine asks; `own` gets what only one of the two machines asks, and may
    /// break off. Returns the machine's deadline.
    pub(crate) fn poll(
        &mut self,
        machine: &mut impl Machine,
        buffer: &mut Vec<u8>,
        mut own: impl FnMut(&mut Self, Output) -> ControlFlow<()>,
    ) -> Option<Duration> {
        loop {
            let output = machine.poll(buffer);
            let flow = match self.carry_out(output, buffer) {
                None => ControlFlow::Continue(()),
                Some(Output::Idle { wake_at, .. }) => return wake_at,
                Some(other) => own(self, other),
            };
            if flow.is_break() {
                return None;
            }
        }
    }

    /// Does what `output` asks if both machines ask it alike; else gives it back.
    fn carry_out(&mut self, output: Output, buffer: &mut Vec<u8>) -> Option<Output> {
        match output {
            Output::Open(conn, link, role) => {
                if let Some(line) = self.lines.get_mut(&conn) {
                    let pipe = Pipe::new(conn, link);
                    line.links.insert(link);
                    drop(line.orders.try_send(Order::Open(Rc::clone(&pipe), role)));
                    self.pipes.insert(link, pipe);
                }
            }
            Output::Send { link, len, fin } => {
                // All that a machine may append is what it names: the buffer is emptied each time.
                debug_assert_eq!(buffer.len(), len);
                if let Some(pipe) = self.pipes.get(&link) {
                    pipe.send(buffer, fin);
                    if fin {
                        self.drop_if_over(link);
                    }
                }
                buffer.clear();
                if buffer.capacity() > BUFFER_KEPT {
                    buffer.shrink_to(BUFFER_KEPT);
                }
            }
            Output::Read(link) => {
                if let Some(pipe) = self.pipes.get(&link) {
                    pipe.want();
                }
            }
            Output::CloseLink(link, code) => {
                if let Some(pipe) = self.drop_link(link) {
                    pipe.close(code);
                }
            }
            Output::CloseConn(conn, code) => self.close(conn, code),
            Output::Compute(id, job) => self.jobs.run(&self.spawner, id, job),
            other => return Some(other),
        }
        None
    }

    /// Closes a connection. One that ends in peace first hands over what was sent on it.
    fn close(&mut self, conn: ConnId, code: CloseCode) {
        let peaceful =
            matches!(code, CloseCode::DONE | CloseCode::SHUTDOWN | CloseCode::SESSION_ENDED);
        let Some((line, pipes)) = self.forget(conn) else { return };
        for pipe in pipes {
            if peaceful && line.up { pipe.part() } else { pipe.close(code) }
        }
        drop(line.orders.try_send(Order::Close(code)));
    }

    fn forget(&mut self, conn: ConnId) -> Option<(Line, Vec<Rc<Pipe>>)> {
        let line = self.lines.remove(&conn)?;
        let pipes = line.links.iter().filter_map(|link| self.pipes.remove(link)).collect();
        Some((line, pipes))
    }

    fn drop_if_over(&mut self, link: LinkId) {
        if self.pipes.get(&link).is_some_and(|pipe| pipe.is_over()) {
            self.drop_link(link);
        }
    }

    fn drop_link(&mut self, link: LinkId) -> Option<Rc<Pipe>> {
        let pipe = self.pipes.remove(&link)?;
        if let Some(line) = self.lines.get_mut(&pipe.conn) {
            line.links.remove(&link);
        }
        Some(pipe)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // The tasks of links that wait for us would wait for ever.
        for pipe in self.pipes.values() {
            pipe.close(CloseCode::DONE);
        }
    }
}

/// Runs jobs on the threads of `blocking`, no more at once than there are processors.
struct Jobs {
    most: usize,
    running: usize,
    waiting: VecDeque<(JobId, Job)>,
}

impl Jobs {
    fn new() -> Self {
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        Self { most, running: 0, waiting: VecDeque::new() }
    }

    fn run(&mut self, spawner: &Spawner, id: JobId, job: Job) {
        // The machine bounds how many jobs are under way.
        self.waiting.push_back((id, job));
        self.start(spawner);
    }

    fn done(&mut self, spawner: &Spawner) {
        self.running -= 1;
        self.start(spawner);
    }

    fn start(&mut self, spawner: &Spawner) {
        while self.running < self.most
            && let Some((id, job)) = self.waiting.pop_front()
        {
            self.running += 1;
            let reports = spawner.reports.clone();
            spawner.spawn(async move {
                let output = blocking::unblock(move || job.run()).await;
                drop(reports.try_send(Report::Computed(id, output)));
            });
        }
    }
}

#[cfg(test)]
mod tests;
