//! Drives a server's machine: accepts connections, runs store operations as transactions, drains.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use futures_lite::future;
use qpc_protocol::error::{CloseCode, Fatal, StoreFault, StoreFaultKind};
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::{Input, OpId, Output};
use qpc_protocol::limits::{CONNECTIONS, DRAIN_TIME};
use qpc_protocol::server::Server;
use qpc_protocol::server::audit::AuditEvent;
use qpc_protocol::server::op::{StoreOp, StoreReply};
use quinn::VarInt;
use smol::{Executor, LocalExecutor};

use crate::clock::Clock;
use crate::driver::{Alarm, LINGER, Lines, ROUND, Report, Spawner, within};
use crate::quic::{self, Quic, ResetSecret};
use crate::store::ServerStore;
use crate::tls::Identity;

/// Handshakes under way above which a client first has to show that its address is its own (RFC 9000 §8.1.2).
const HANDSHAKES_UNPROVEN: usize = 64;
/// Handshakes under way above which new ones are refused.
const HANDSHAKES: usize = 1024;
/// A TLS handshake takes no longer.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Connections that QUIC takes beyond the machine's own limit, so that the machine can say why not.
const CONNECTIONS_BEYOND: usize = 64;
/// Orders waiting for the driver; who gives more waits.
const ORDERS: usize = 1024;

/// Takes what goes to the audit log. It runs on the driver's thread and must not block.
pub type AuditSink = Box<dyn FnMut(AuditEvent) + Send>;

/// How a server listens.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The UDP address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who the server is.
    pub identity: Identity,
    /// Connections at once, the machine's configuration alike.
    pub connections: usize,
    /// Lets clients find out at once that the server was started again; without it they wait for a timeout.
    pub reset: Option<ResetSecret>,
}

impl ServeOptions {
    /// Listens there as that identity.
    pub fn new(listen: SocketAddr, identity: Identity) -> Self {
        Self { listen, identity, connections: CONNECTIONS, reset: None }
    }
}

/// A running server.
#[derive(Debug)]
pub struct ServerHandle {
    address: SocketAddr,
    orders: Sender<Order>,
    connections: Arc<AtomicUsize>,
    ended: Receiver<()>,
    thread: JoinHandle<Result<(), Fatal>>,
}

enum Order {
    Drain,
    Notified(ChannelId, u64),
}

/// Starts driving `machine` on a thread of its own. `clock` must be the one whose time the machine was
/// made with.
///
/// # Errors
///
/// If the address cannot be listened on, or no thread can be started.
pub fn serve(
    options: ServeOptions,
    machine: Server,
    store: Box<dyn ServerStore>,
    clock: Clock,
    audit: AuditSink,
) -> io::Result<ServerHandle> {
    let executor = Arc::new(Executor::new());
    let (tls, reset) = (options.identity.config(), options.reset.as_ref());
    let endpoint = quic::server_endpoint(tls, options.listen, reset, &executor)?;
    let address = endpoint.local_addr()?;
    let (orders, inbox) = async_channel::bounded(ORDERS);
    let (alive, ended) = async_channel::bounded(1);
    let connections = Arc::new(AtomicUsize::new(0));
    let store = StoreThread::start(store)?;
    let count = Arc::clone(&connections);
    let thread = thread::Builder::new().name("qpc-server".to_owned()).spawn(move || {
        let local = Rc::new(LocalExecutor::new());
        let (lines, reports, all_ended) = Lines::new(&local);
        let driver = Driver {
            machine,
            clock,
            store,
            audit,
            lines,
            count,
            ops: Vec::new(),
            ids: Vec::new(),
            buffer: Vec::new(),
        };
        let connections = options.connections.saturating_add(CONNECTIONS_BEYOND);
        let main = driver.run(endpoint, connections, reports, inbox, all_ended);
        let result = async_io::block_on(executor.run(local.run(main)));
        // Drops what is left of tasks, and with them the socket.
        drop((local, executor));
        drop(alive);
        result
    })?;
    Ok(ServerHandle { address, orders, connections, ended, thread })
}

impl ServerHandle {
    /// Where the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Connections that the machine holds now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Begins to drain: calls in flight finish, at most
    /// [`DRAIN_TIME`], then every connection is closed.
    pub async fn drain(&self) {
        // If the driver has ended, there is nothing left to drain.
        drop(self.orders.send(Order::Drain).await);
    }

    /// Another process appended up to `seq` to a channel of the shared store.
    pub async fn notify(&self, channel: ChannelId, seq: u64) {
        drop(self.orders.send(Order::Notified(channel, seq)).await);
    }

    /// Resolves when the server has ended, drained or broken.
    pub async fn ended(&self) {
        self.ended.recv().await.unwrap_or_default();
    }

    /// How the server ended; waits for it.
    ///
    /// # Errors
    ///
    /// What broke it.
    pub fn join(self) -> Result<(), Fatal> {
        self.thread.join().unwrap_or(Err(Fatal::Bug("the driver of the server panicked")))
    }
}

/// The thread on which the store works.
struct StoreThread {
    work: Sender<Vec<StoreOp>>,
    done: Receiver<Result<Vec<StoreReply>, StoreFault>>,
    thread: JoinHandle<()>,
    /// The operations at work, in their order.
    busy: Vec<OpId>,
}

impl StoreThread {
    fn start(mut store: Box<dyn ServerStore>) -> io::Result<Self> {
        let (work, inbox) = async_channel::bounded::<Vec<StoreOp>>(1);
        let (outbox, done) = async_channel::bounded(1);
        let thread = thread::Builder::new().name("qpc-store".to_owned()).spawn(move || {
            while let Ok(ops) = inbox.recv_blocking() {
                let replies = store.apply(&ops).and_then(|replies| {
                    if replies.len() == ops.len() {
                        Ok(replies)
                    } else {
                        Err(broken("wrong number of replies"))
                    }
                });
                if outbox.send_blocking(replies).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { work, done, thread, busy: Vec::new() })
    }
}

fn broken(detail: &str) -> StoreFault {
    StoreFault { kind: StoreFaultKind::Io, detail: detail.to_owned() }
}

struct Driver {
    machine: Server,
    clock: Clock,
    store: StoreThread,
    audit: AuditSink,
    lines: Lines,
    count: Arc<AtomicUsize>,
    /// Operations that wait for the transaction under way to end; they become the next one.
    ops: Vec<StoreOp>,
    ids: Vec<OpId>,
    buffer: Vec<u8>,
}

enum Wake {
    Report(Report),
    Order(Order),
    Stored(Result<Vec<StoreReply>, StoreFault>),
    Tick,
}

impl Driver {
    async fn run(
        mut self,
        endpoint: quinn::Endpoint,
        connections: usize,
        reports: Receiver<Report>,
        orders: Receiver<Order>,
        all_ended: Receiver<()>,
    ) -> Result<(), Fatal> {
        let refusing = Rc::new(Cell::new(false));
        let (accepting, stop) = async_channel::bounded::<()>(1);
        let spawner = self.lines.spawner().clone();
        let accept = accept(
            endpoint.clone(),
            self.lines.spawner().clone(),
            connections,
            Rc::clone(&refusing),
        );
        spawner.spawn(future::or(accept, async move { stop.recv().await.unwrap_or_default() }));
        drop(spawner);
        let result = self.drive(&reports, &orders, &refusing).await;
        // The task that accepts holds a sender of what `all_ended` waits for, as all connections do.
        drop((accepting, self.lines, reports));
        let code = if result.is_ok() { CloseCode::SHUTDOWN } else { CloseCode::INTERNAL };
        if result.is_ok() {
            within(LINGER * 2, async { all_ended.recv().await.unwrap_or_default() }).await;
        }
        endpoint.close(VarInt::from_u32(code.0), b"server shutdown");
        within(LINGER, endpoint.wait_idle()).await;
        // What the store still works on is finished before the process may end.
        let StoreThread { work, done, thread, .. } = self.store;
        drop((work, done));
        blocking::unblock(move || thread.join()).await.ok();
        result
    }

    /// Until the machine is drained or broken.
    async fn drive(
        &mut self,
        reports: &Receiver<Report>,
        orders: &Receiver<Order>,
        refusing: &Cell<bool>,
    ) -> Result<(), Fatal> {
        let mut alarm = Alarm::new();
        let mut drained_by: Option<Instant> = None;
        loop {
            let deadline = self.poll();
            self.count.store(self.machine.connections(), Ordering::Relaxed);
            if let Some(latest) = drained_by
                && (self.machine.is_drained() || Instant::now() >= latest)
            {
                return Ok(());
            }
            alarm.set(drained_by);
            alarm.set(deadline.and_then(|mono| self.clock.instant(mono)));
            let wake = self.wait(reports, orders, &mut alarm).await;
            match wake {
                Wake::Order(Order::Drain) => {
                    if drained_by.is_none() {
                        tracing::info!(connections = self.machine.connections(), "draining");
                        refusing.set(true);
                        drained_by = Instant::now().checked_add(DRAIN_TIME + LINGER);
                        self.machine.drain(self.clock.now());
                    }
                }
                other => self.handle(other, reports)?,
            }
        }
    }

    async fn wait(
        &self,
        reports: &Receiver<Report>,
        orders: &Receiver<Order>,
        alarm: &mut Alarm,
    ) -> Wake {
        // Neither channel of the first two closes while this driver lives: it holds a sender of the one,
        // and without handle the other is simply silent.
        let report = async {
            match reports.recv().await {
                Ok(report) => Wake::Report(report),
                Err(_) => future::pending().await,
            }
        };
        let order = async {
            match orders.recv().await {
                Ok(order) => Wake::Order(order),
                Err(_) => future::pending().await,
            }
        };
        let stored = async {
            match self.store.done.recv().await {
                Ok(replies) => Wake::Stored(replies),
                Err(_) => Wake::Stored(Err(broken("the store's thread has ended"))),
            }
        };
        let tick = async {
            alarm.ring().await;
            Wake::Tick
        };
        future::or(report, future::or(stored, future::or(order, tick))).await
    }

    /// Hands over `wake` and what else has come meanwhile.
    fn handle(&mut self, wake: Wake, reports: &Receiver<Report>) -> Result<(), Fatal> {
        let now = self.clock.now();
        match wake {
            Wake::Report(report) => self.lines.report(&mut self.machine, now, report)?,
            Wake::Order(Order::Notified(channel, seq)) => {
                self.machine.handle(now, Input::Notified(channel, seq))?;
            }
            Wake::Order(Order::Drain) => {}
            Wake::Stored(replies) => self.stored(replies)?,
            Wake::Tick => self.machine.handle(now, Input::Tick)?,
        }
        for _ in 0..ROUND {
            let Ok(report) = reports.try_recv() else { break };
            self.lines.report(&mut self.machine, now, report)?;
        }
        Ok(())
    }

    fn stored(&mut self, replies: Result<Vec<StoreReply>, StoreFault>) -> Result<(), Fatal> {
        let now = self.clock.now();
        let ids = std::mem::take(&mut self.store.busy);
        match replies {
            Ok(replies) => {
                for (id, reply) in ids.into_iter().zip(replies) {
                    self.machine.handle(now, Input::Stored(id, Ok(reply)))?;
                }
            }
            Err(fault) => {
                tracing::error!(%fault, "a transaction failed");
                for id in ids {
                    self.machine.handle(now, Input::Stored(id, Err(fault.clone())))?;
                }
                if self.store.done.is_closed() {
                    return Err(Fatal::Store(fault));
                }
            }
        }
        Ok(())
    }

    /// Carries out all outputs; returns the machine's deadline.
    fn poll(&mut self) -> Option<Duration> {
        let Self { machine, lines, buffer, ids, ops, audit, .. } = self;
        let deadline = lines.poll(machine, buffer, |_, output| {
            match output {
                Output::Store(id, op) => {
                    ids.push(id);
                    ops.push(op);
                }
                Output::Audit(event) => audit(event),
                other => tracing::error!(?other, "a server's machine does not ask this"),
            }
            ControlFlow::Continue(())
        });
        if self.store.busy.is_empty() && !self.ops.is_empty() {
            self.store.busy = std::mem::take(&mut self.ids);
            // The thread takes one transaction at a time and has none now; if it has ended, `wait` tells.
            drop(self.store.work.try_send(std::mem::take(&mut self.ops)));
        }
        deadline
    }
}

/// Takes connections in, one task per handshake.
async fn accept(
    endpoint: quinn::Endpoint,
    spawner: Spawner,
    connections: usize,
    refusing: Rc<Cell<bool>>,
) {
    let under_way = Rc::new(());
    while let Some(incoming) = endpoint.accept().await {
        let handshakes = Rc::strong_count(&under_way) - 1;
        let remote = incoming.remote_address();
        if refusing.get() || handshakes >= HANDSHAKES || endpoint.open_connections() >= connections
        {
            tracing::debug!(%remote, handshakes, "refused");
            incoming.refuse();
            continue;
        }
        if handshakes >= HANDSHAKES_UNPROVEN && !incoming.remote_address_validated() {
            if incoming.retry().is_err() {
                tracing::debug!(%remote, "no retry possible");
            }
            continue;
        }
        let one = Rc::clone(&under_way);
        let task = spawner.clone();
        let handshake = async move {
            match incoming.await {
                Ok(connection) => match quic::describe(&connection) {
                    Ok((transport, facts)) => {
                        tracing::debug!(%remote, key_exchange = ?facts.key_exchange,
                            post_quantum = facts.is_post_quantum(), "connected");
                        task.arrived(Quic(connection), transport);
                    }
                    Err(gone) => tracing::debug!(%remote, ?gone, "handshake refused"),
                },
                Err(error) => tracing::debug!(%remote, %error, "handshake failed"),
            }
        };
        spawner.spawn(async move {
            if !within(HANDSHAKE_TIME, handshake).await {
                tracing::debug!(%remote, "handshake too slow");
            }
            drop(one);
        });
    }
}

#[cfg(test)]
mod tests;
