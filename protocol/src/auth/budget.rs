//! How often somebody may do something: budgets over a sliding window, for one and for many.
//!
//! A budget admits at most `most` in *any* stretch of `window`. Time is cut into slices of an eighth of the
//! window, the same for all budgets of one window; what was spent counts until its slice and eight more are
//! over. So a spent unit comes back after one window at the earliest, and nine eighths of one at the latest.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;

use crate::id::Digest;
use crate::limits::{LOGIN_WINDOW, LOGINS_IN_ALL, LOGINS_PER_ACCOUNT, LOGINS_PER_SOURCE};
use crate::wire::message::Username;

/// At most `most` in any stretch of `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub most: u32,
    /// In how long; at least 8 ns.
    pub window: Duration,
}

impl Rate {
    fn slice(self) -> u128 {
        self.window.as_nanos().div_ceil(SLICES as u128).max(1)
    }

    fn slice_of(self, now: Duration) -> u64 {
        u64::try_from(now.as_nanos() / self.slice()).unwrap_or(u64::MAX)
    }

    /// When a slice begins, as time from `now`; zero if it has begun.
    fn until(self, slice: u64, now: Duration) -> Duration {
        let begin = u128::from(slice).saturating_mul(self.slice());
        let nanos = begin.saturating_sub(now.as_nanos());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

const SLICES: usize = 8;
const RING: usize = SLICES + 1;

/// What was spent in the slices that still count.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    ring: [u32; RING],
    /// The latest slice in the ring.
    last: u64,
}

impl Window {
    fn slot(slice: u64) -> usize {
        // In range: the remainder of a division by RING.
        (slice % RING as u64) as usize
    }

    /// Slices that count at `slice`, oldest first, with what was spent in them.
    fn live(&self, slice: u64) -> impl Iterator<Item = (u64, u32)> + '_ {
        let oldest = slice.max(self.last).saturating_sub(SLICES as u64);
        (oldest..=self.last).map(|slice| (slice, self.ring[Self::slot(slice)]))
    }

    fn spent(&self, slice: u64) -> u32 {
        self.live(slice).fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// How long until there is one to spend: zero if there is.
    fn wait(&self, rate: Rate, now: Duration) -> Duration {
        let slice = rate.slice_of(now).max(self.last);
        let mut spent = self.spent(slice);
        if spent < rate.most {
            return Duration::ZERO;
        }
        for (from, count) in self.live(slice) {
            spent = spent.saturating_sub(count);
            if spent < rate.most {
                return rate.until(from.saturating_add(RING as u64), now);
            }
        }
        // Nothing is ever admitted: `most` is zero.
        rate.window.max(Duration::from_nanos(1))
    }

    fn spend(&mut self, rate: Rate, now: Duration) {
        let slice = rate.slice_of(now).max(self.last);
        // Slices that began since the last one hold nothing yet; a whole ring of them is enough to clear.
        let passed = (slice - self.last).min(RING as u64);
        for slice in slice - passed..slice {
            self.ring[Self::slot(slice + 1)] = 0;
        }
        self.last = slice;
        let count = &mut self.ring[Self::slot(slice)];
        *count = count.saturating_add(1);
    }

    fn give_back(&mut self, rate: Rate, spent_at: Duration) {
        let slice = rate.slice_of(spent_at);
        if slice <= self.last && self.last - slice <= SLICES as u64 {
            let count = &mut self.ring[Self::slot(slice)];
            *count = count.saturating_sub(1);
        }
    }
}

/// One budget: of a connection, of a whole server.
#[derive(Clone, Debug)]
pub struct Budget {
    rate: Rate,
    window: Window,
}

impl Budget {
    /// A budget of which nothing was spent.
    pub fn new(rate: Rate) -> Self {
        Self { rate, window: Window::default() }
    }

    /// How long until there is one to spend, from `now` on the monotonic clock; zero if there is.
    pub fn wait(&self, now: Duration) -> Duration {
        self.window.wait(self.rate, now)
    }

    /// Spends one.
    ///
    /// # Errors
    /// None is left: how long to wait. Nothing was spent.
    pub fn spend(&mut self, now: Duration) -> Result<(), Duration> {
        let wait = self.wait(now);
        if wait.is_zero() {
            self.window.spend(self.rate, now);
            Ok(())
        } else {
            Err(wait)
        }
    }

    /// Takes back one that was spent at that time: it did not count after all.
    pub fn give_back(&mut self, spent_at: Duration) {
        self.window.give_back(self.rate, spent_at);
    }
}

/// A budget for each of many, in bounded memory.
///
/// At most `keys` are remembered. One more, and whoever has not spent for longest is forgotten, with a full budget
/// again: a flood of keys can never make this refuse anybody, nor grow. Who refuses floods is a [`Budget`] over
/// all beside this one; with `keys` at least its `most` and the same window, only those are forgotten of whom
/// nothing counts any more ([`LoginBudgets`] is built so).
#[derive(Clone)]
pub struct Budgets<K> {
    rate: Rate,
    keys: usize,
    windows: BTreeMap<K, (Window, u64)>,
    /// Keys by when they last spent.
    order: BTreeMap<u64, K>,
    turn: u64,
}

impl<K: Ord + Clone> Budgets<K> {
    /// Budgets of which nothing was spent, for up to `keys` at once (at least one).
    pub fn new(rate: Rate, keys: usize) -> Self {
        let (windows, order) = (BTreeMap::new(), BTreeMap::new());
        Self { rate, keys: keys.max(1), windows, order, turn: 0 }
    }

    /// How long until that key has one to spend; zero if it has.
    pub fn wait(&self, key: &K, now: Duration) -> Duration {
        match self.windows.get(key) {
            Some((window, _)) => window.wait(self.rate, now),
            None => Window::default().wait(self.rate, now),
        }
    }

    /// Spends one of that key's.
    ///
    /// # Errors
    /// None is left: how long to wait. Nothing was spent, and the key is not remembered for asking.
    pub fn spend(&mut self, key: &K, now: Duration) -> Result<(), Duration> {
        let wait = self.wait(key, now);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.turn += 1;
        if let Some((window, turn)) = self.windows.get_mut(key) {
            window.spend(self.rate, now);
            self.order.remove(turn);
            *turn = self.turn;
        } else {
            self.forget(now);
            let mut window = Window::default();
            window.spend(self.rate, now);
            self.windows.insert(key.clone(), (window, self.turn));
        }
        self.order.insert(self.turn, key.clone());
        Ok(())
    }

    /// Takes back one that the key spent at that time.
    pub fn give_back(&mut self, key: &K, spent_at: Duration) {
        if let Some((window, _)) = self.windows.get_mut(key) {
            window.give_back(self.rate, spent_at);
        }
    }

    /// How many keys are remembered.
    pub fn remembered(&self) -> usize {
        self.windows.len()
    }

    /// Makes room for one key. Takes up to two that nothing counts of, so that the memory of a flood goes as
    /// those come who would have come anyway.
    fn forget(&mut self, now: Duration) {
        let slice = self.rate.slice_of(now);
        for _ in 0..2 {
            let Some(oldest) = self.order.first_entry() else { return };
            let spent = self.windows.get(oldest.get()).map_or(0, |(window, _)| window.spent(slice));
            if spent > 0 && self.windows.len() < self.keys {
                return;
            }
            self.windows.remove(&oldest.remove());
        }
    }
}

impl<K> fmt::Debug for Budgets<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budgets({:?}, {} of {} keys)", self.rate, self.windows.len(), self.keys)
    }
}

/// How many logins are admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginRates {
    /// Failed logins per username and [`LOGIN_WINDOW`].
    pub per_account: u32,
    /// Logins and registrations per source and [`LOGIN_WINDOW`].
    pub per_source: u32,
    /// Logins and registrations in all per [`LOGIN_WINDOW`].
    pub in_all: u32,
}

impl Default for LoginRates {
    fn default() -> Self {
        Self {
            per_account: LOGINS_PER_ACCOUNT,
            per_source: LOGINS_PER_SOURCE,
            in_all: LOGINS_IN_ALL,
        }
    }
}

/// The budgets of logins and registrations: per username, per source and in all.
///
/// A login is spent when it starts, because the first answer already lets a client test one password; a
/// successful one gives the account's back. Usernames are all alike: nothing here knows which exist. What is
/// refused spends nothing, so that one source can use up no more of what all share than its own part. An account
/// under attack refuses password logins for a while; its devices go on with their tokens.
#[derive(Clone, Debug)]
pub struct LoginBudgets {
    accounts: Budgets<Digest>,
    sources: Budgets<Digest>,
    all: Budget,
}

/// A login that was admitted; tell how it ended with [`LoginBudgets::succeeded`].
#[derive(Clone, Copy, Debug)]
pub struct Admitted {
    account: Digest,
    at: Duration,
}

/// A login that was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Whose budget is used up: for the audit log, not for the caller.
    pub whose: Whose,
    /// When trying again makes sense.
    pub retry_after: Duration,
}

/// Whose budget it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The source's.
    Source,
    /// The username's.
    Account,
    /// The whole server's.
    All,
}

impl LoginBudgets {
    /// Budgets of which nothing was spent.
    pub fn new(rates: LoginRates) -> Self {
        let rate = |most| Rate { most, window: LOGIN_WINDOW };
        // What `all` admits in a window can be of no more keys than that: no key is forgotten that counts.
        let keys = usize::try_from(rates.in_all).unwrap_or(usize::MAX);
        Self {
            accounts: Budgets::new(rate(rates.per_account), keys),
            sources: Budgets::new(rate(rates.per_source), keys),
            all: Budget::new(rate(rates.in_all)),
        }
    }

    /// Admits the start of a login, at `now` on the monotonic clock. `source` is
    /// [`Transport::peer`](crate::io::Transport::peer).
    ///
    /// # Errors
    /// A budget is used up; nothing was spent.
    pub fn login(
        &mut self,
        username: &Username,
        source: &[u8],
        now: Duration,
    ) -> Result<Admitted, Limited> {
        let account = Digest::of(&[username.as_str().as_bytes()]);
        let wait = self.accounts.wait(&account, now);
        let limited =
            (!wait.is_zero()).then_some(Limited { whose: Whose::Account, retry_after: wait });
        self.start(source, now, limited)?;
        // Admitted a line above, by the same reckoning.
        let _ = self.accounts.spend(&account, now);
        Ok(Admitted { account, at: now })
    }

    /// Admits the start of a registration.
    ///
    /// # Errors
    /// A budget is used up; nothing was spent.
    pub fn register(&mut self, source: &[u8], now: Duration) -> Result<(), Limited> {
        self.start(source, now, None)
    }

    /// The login had the right password: the account's budget counts failures only.
    pub fn succeeded(&mut self, login: Admitted) {
        self.accounts.give_back(&login.account, login.at);
    }

    fn start(
        &mut self,
        source: &[u8],
        now: Duration,
        account: Option<Limited>,
    ) -> Result<(), Limited> {
        let source = Digest::of(&[source]);
        let wait = self.sources.wait(&source, now);
        if !wait.is_zero() {
            return Err(Limited { whose: Whose::Source, retry_after: wait });
        }
        if let Some(limited) = account {
            return Err(limited);
        }
        let limited = |whose| move |retry_after| Limited { whose, retry_after };
        self.all.spend(now).map_err(limited(Whose::All))?;
        self.sources.spend(&source, now).map_err(limited(Whose::Source))
    }
}

#[cfg(test)]
mod tests;
