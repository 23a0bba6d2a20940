//! Who may begin how much: budgets that are spent before any work is done.

use core::time::Duration;

use zeroize::Zeroizing;

use super::connection::Call;
use super::{Config, Server};
use crate::auth::budget::{Admitted, Budgets, Limited, LoginBudgets, LoginRates, Rate};
use crate::error::ErrorCode;
use crate::id::AccountId;
use crate::limits;
use crate::server::audit::AuditKind;
use crate::wire::message::{Failure, Username};

/// The budgets of a server.
#[derive(Debug)]
pub(super) struct Admission {
    logins: LoginBudgets,
    lookups: Budgets<AccountId>,
    /// Key packages claimed, by who claims, of whom, and both. Whom, nobody has looked up yet, and a caller may name
    /// very many: they share so many counters that each has its place, by a hash that nobody else can tell.
    claims_by: Budgets<AccountId>,
    claims_of: Budgets<u16>,
    claims_between: Budgets<u16>,
    claim_key: Zeroizing<[u8; 32]>,
}

impl Admission {
    pub(super) fn new(config: &Config, claim_key: Zeroizing<[u8; 32]>) -> Self {
        let claim = |most| Rate { most, window: limits::CLAIM_WINDOW };
        let lookups = Rate { most: limits::LOOKUPS_PER_MINUTE, window: Duration::from_secs(60) };
        Self {
            logins: LoginBudgets::new(LoginRates {
                per_account: config.logins_per_account,
                per_source: config.logins_per_source,
                in_all: limits::LOGINS_IN_ALL,
            }),
            claims_by: Budgets::new(claim(limits::CLAIMS_BY_CALLER), config.connections),
            claims_of: Budgets::new(claim(limits::CLAIMS_OF_TARGET), limits::CLAIM_COUNTERS),
            claims_between: Budgets::new(claim(limits::CLAIMS_BETWEEN), limits::CLAIM_COUNTERS),
            claim_key,
            // No more accounts than connections can be looking things up at once.
            lookups: Budgets::new(lookups, config.connections),
        }
    }

    /// A login had the right password.
    pub(super) fn succeeded(&mut self, login: Admitted) {
        self.logins.succeeded(login);
    }
}

impl Server {
    /// Admits a login, or answers the call with when to try again.
    pub(super) fn admit_login(&mut self, call: Call, username: &Username) -> Option<Admitted> {
        let source = &self.conns.get(&call.conn)?.transport.peer;
        match self.admission.logins.login(username, source, self.now.mono) {
            Ok(admitted) => Some(admitted),
            Err(Limited { retry_after, .. }) => {
                self.limited(call, retry_after);
                None
            }
        }
    }

    /// Admits a registration, or answers the call with when to try again.
    pub(super) fn admit_registration(&mut self, call: Call) -> bool {
        let Some(connection) = self.conns.get(&call.conn) else { return false };
        let source = &connection.transport.peer;
        match self.admission.logins.register(source, self.now.mono) {
            Ok(()) => true,
            Err(Limited { retry_after, .. }) => {
                self.limited(call, retry_after);
                false
            }
        }
    }

    /// Admits a lookup, or answers the call with when to try again.
    pub(super) fn admit_lookup(&mut self, call: Call, account: AccountId) -> bool {
        match self.admission.lookups.spend(&account, self.now.mono) {
            Ok(()) => true,
            Err(retry_after) => {
                self.limited(call, retry_after);
                false
            }
        }
    }

    /// Admits a claim of an account's key packages, or answers the call with when to try again. An account's own are
    /// its own to use up.
    pub(super) fn admit_claim(&mut self, call: Call, by: AccountId, of: AccountId) -> bool {
        let counter = |who: &[&[u8]]| {
            let hash = self.config.backend.hmac_sha256(&*self.admission.claim_key, who);
            u16::from_be_bytes([hash[0], hash[1]])
        };
        let (target, pair) = (counter(&[b"of", &of.0]), counter(&[b"between", &by.0, &of.0]));
        let (now, budgets) = (self.now.mono, &mut self.admission);
        let mut wait = budgets.claims_by.wait(&by, now);
        if by != of {
            wait = wait.max(budgets.claims_of.wait(&target, now));
            wait = wait.max(budgets.claims_between.wait(&pair, now));
        }
        if !wait.is_zero() {
            self.limited(call, wait);
            return false;
        }
        // Each was asked: none refuses.
        let _ = budgets.claims_by.spend(&by, now);
        if by != of {
            let _ = budgets.claims_of.spend(&target, now);
            let _ = budgets.claims_between.spend(&pair, now);
        }
        true
    }

    fn limited(&mut self, call: Call, retry_after: Duration) {
        let error = ErrorCode::RateLimited;
        self.audit(AuditKind::Limit, Some(call.conn), None, Some(error));
        // Rounded up, so that who waits that long is not refused again.
        let retry_after_ms = u32::try_from(retry_after.as_millis() + 1).unwrap_or(u32::MAX);
        self.refuse(call, Failure { retry_after_ms, ..error.into() });
    }
}
