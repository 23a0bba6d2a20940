//! What a driver needs of a transport, and the task that pumps one link's bytes by credit.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use futures_lite::future;
use qpc_protocol::error::CloseCode;
use qpc_protocol::io::{ConnId, Gone, LinkId, LinkRole};
use qpc_protocol::limits::READ_CHUNK;

use crate::driver::Report;

/// Bytes of one link that may wait in this runtime: the credit a machine starts with.
pub(crate) const LINK_WINDOW: usize = 256 * 1024;
/// Credit goes back in portions of at least this, so that small frames cost no input each. A machine
/// out of credit has a full window written or under way, hence nothing is ever held back for good.
const CREDIT_PORTION: usize = LINK_WINDOW / 4;
/// From this length on a sent piece keeps its own allocation instead of being copied behind the last.
const OWN_ALLOCATION: usize = 16 * 1024;

/// Why a half of a link works no more.
pub(crate) enum Broken {
    /// The link alone.
    Link(Gone),
    /// The connection, which tells so itself.
    Connection,
}

/// The receiving half of a link.
pub(crate) trait ReadHalf {
    /// The next bytes, at most `READ_CHUNK`; `None` at the end.
    fn read(&mut self) -> impl Future<Output = Result<Option<Bytes>, Broken>>;
    /// Wants no more.
    fn stop(&mut self, code: CloseCode);
}

/// The sending half of a link.
pub(crate) trait WriteHalf {
    /// Takes some bytes from the front of `chunks`; how many.
    fn write(
        &mut self,
        chunks: &mut VecDeque<Bytes>,
    ) -> impl Future<Output = Result<usize, Broken>>;
    /// Nothing follows.
    fn finish(&mut self);
    /// After `finish`: resolves when the other side has everything.
    fn settled(&mut self) -> impl Future<Output = ()>;
    /// Gives up what was not sent yet.
    fn reset(&mut self, code: CloseCode);
}

/// A connection of some transport.
pub(crate) trait Carrier: 'static {
    /// A link's receiving half.
    type Read: ReadHalf;
    /// A link's sending half.
    type Write: WriteHalf;
    /// Opens a link.
    fn open(
        &self,
        role: LinkRole,
    ) -> impl Future<Output = Result<(Self::Read, Self::Write), Broken>>;
    /// The next link that the other side opened; pends for ever when the connection is gone.
    fn accept(&self) -> impl Future<Output = (Self::Read, Self::Write)>;
    /// Resolves when the connection is gone.
    fn gone(&self) -> impl Future<Output = Gone>;
    /// Closes at once. Resolves when what says so to the other side has left.
    fn close(&self, code: CloseCode) -> impl Future<Output = ()>;
}

/// Where the driver and a link's task meet. Both run on one thread.
pub(crate) struct Pipe {
    pub(crate) conn: ConnId,
    pub(crate) link: LinkId,
    wanted: Cell<bool>,
    queue: RefCell<Queue>,
    closed: Cell<Option<CloseCode>>,
    read_over: Cell<bool>,
    /// What was sent still goes out, nothing comes in any more.
    parting: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

#[derive(Default)]
struct Queue {
    chunks: VecDeque<Bytes>,
    /// Small pieces, gathered until the task takes them.
    tail: Vec<u8>,
    fin: bool,
}

impl Pipe {
    pub(crate) fn new(conn: ConnId, link: LinkId) -> Rc<Self> {
        Rc::new(Self {
            conn,
            link,
            wanted: Cell::new(false),
            queue: RefCell::default(),
            closed: Cell::new(None),
            read_over: Cell::new(false),
            parting: Cell::new(false),
            waker: Cell::new(None),
        })
    }

    /// One more delivery is asked for.
    pub(crate) fn want(&self) {
        self.wanted.set(true);
        self.wake();
    }

    /// Sends `piece`, emptying it.
    pub(crate) fn send(&self, piece: &mut Vec<u8>, fin: bool) {
        let mut queue = self.queue.borrow_mut();
        if piece.len() >= OWN_ALLOCATION {
            queue.gather();
            queue.chunks.push_back(Bytes::from(std::mem::take(piece)));
        } else {
            queue.tail.append(piece);
        }
        queue.fin |= fin;
        drop(queue);
        self.wake();
    }

    /// Closes both directions at once.
    pub(crate) fn close(&self, code: CloseCode) {
        self.closed.set(Some(code));
        self.wake();
    }

    /// Lets what was sent go out, then closes.
    pub(crate) fn part(&self) {
        self.queue.borrow_mut().fin = true;
        self.parting.set(true);
        self.wake();
    }

    /// Both directions have come to their end.
    pub(crate) fn is_over(&self) -> bool {
        self.read_over.get() && self.queue.borrow().fin
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Resolves when `ready` has something. All waits of a link's task may share one waker: the task
    /// polls all of them whenever it runs.
    async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| match ready() {
            Some(value) => Poll::Ready(value),
            None => {
                self.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

impl Queue {
    fn gather(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.chunks.push_back(Bytes::from(tail));
        }
    }

    /// Everything sent since the last time; `Some` if there is something or the end has come.
    fn take(&mut self) -> Option<(VecDeque<Bytes>, bool)> {
        self.gather();
        let chunks = std::mem::take(&mut self.chunks);
        (self.fin || !chunks.is_empty()).then_some((chunks, self.fin))
    }
}

/// Pumps a link until it or its connection is over.
pub(crate) async fn pump<R: ReadHalf, W: WriteHalf>(
    pipe: Rc<Pipe>,
    (mut read, mut write): (R, W),
    reports: async_channel::Sender<Report>,
) {
    let tell = |report| drop(reports.try_send(report));
    tell(Report::Writable(pipe.link, LINK_WINDOW));
    let closed = async { Err(Ended::Closed(pipe.until(|| pipe.closed.get()).await)) };
    let both = async {
        future::try_zip(
            future::or(
                async {
                    pipe.until(|| pipe.parting.get().then_some(())).await;
                    Ok(())
                },
                async { read_all(&pipe, &mut read, &tell).await.map_err(Ended::Broken) },
            ),
            async { write_all(&pipe, &mut write, &tell).await.map_err(Ended::Broken) },
        )
        .await
        .map(drop)
    };
    let code = match future::or(closed, both).await {
        Ok(()) | Err(Ended::Broken(Broken::Connection)) => return,
        Err(Ended::Closed(code)) => code,
        Err(Ended::Broken(Broken::Link(gone))) => {
            tell(Report::Closed(pipe.link, gone));
            CloseCode::DONE
        }
    };
    read.stop(code);
    write.reset(code);
}

enum Ended {
    Closed(CloseCode),
    Broken(Broken),
}

async fn read_all(
    pipe: &Pipe,
    read: &mut impl ReadHalf,
    tell: &impl Fn(Report),
) -> Result<(), Broken> {
    loop {
        pipe.until(|| pipe.wanted.take().then_some(())).await;
        match read.read().await? {
            Some(bytes) => {
                debug_assert!(bytes.len() <= READ_CHUNK);
                tell(Report::Bytes(pipe.link, bytes));
            }
            None => {
                pipe.read_over.set(true);
                tell(Report::Closed(pipe.link, Gone::Finished));
                return Ok(());
            }
        }
    }
}

async fn write_all(
    pipe: &Pipe,
    write: &mut impl WriteHalf,
    tell: &impl Fn(Report),
) -> Result<(), Broken> {
    let mut credit = 0;
    loop {
        let (mut chunks, fin) = pipe.until(|| pipe.queue.borrow_mut().take()).await;
        while !chunks.is_empty() {
            credit += write.write(&mut chunks).await?;
            if credit >= CREDIT_PORTION {
                tell(Report::Writable(pipe.link, std::mem::take(&mut credit)));
            }
        }
        if fin {
            write.finish();
            write.settled().await;
            return Ok(());
        }
    }
}
